"""Rules of users' own optimizers: both families, both modes, the bits of their NumPy form."""

import numpy as np
import pytest
from support import ROOT, load_example

import distopt
from distopt import IndexedSlices, Strategy, Variable
from distopt.errors import CollectiveMismatchError, InvalidArgumentError
from distopt.kernels import Rule
from distopt.optimizers import Optimizer, legacy
from distopt.optimizers.common.access import family_of

EXAMPLE = load_example(ROOT / "examples" / "own_rule.py")
YOGI = EXAMPLE.YOGI
STEPS = 3


class LegacyYogi(legacy.Optimizer):
    """The same rule in the other family."""

    def __init__(self, learning_rate=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-3, name="Yogi", **kwargs):
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", learning_rate)
        self._set_hyper("beta_1", beta_1)
        self._set_hyper("beta_2", beta_2)
        self.epsilon = epsilon

    def _prepare_local(self, var_device, var_dtype, apply_state):
        super()._prepare_local(var_device, var_dtype, apply_state)
        local, t = apply_state[var_device, var_dtype], int(self.iterations) + 1
        beta_1, beta_2 = (float(self._get_hyper(name)) for name in ("beta_1", "beta_2"))
        local["alpha"] = float(local["lr_t"]) * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        local.update(one_minus_beta_1=1 - beta_1, one_minus_beta_2=1 - beta_2)

    def update_rule(self):
        return YOGI

    def rule_scalars(self, local):
        return local["alpha"], local["one_minus_beta_1"], local["one_minus_beta_2"], self.epsilon


FAMILIES = pytest.mark.parametrize("make", [EXAMPLE.Yogi, LegacyYogi])


def gradient(step):
    return np.random.default_rng([step, distopt.replica_index()]).normal(size=300).astype(np.float32)


def train(make, update, **options):
    with Strategy(distopt.get_strategy().communicator, update=update).scope():
        w = Variable(np.ones(300, np.float32))
        optimizer = make(**options)
        assert family_of(optimizer).updates_flat
        for step in range(STEPS):
            optimizer.apply_gradients([(gradient(step), w)])
        return w.numpy()


def reference(make):
    """The steps of one replica by the rule's NumPy form."""
    p, m, v = np.ones(300, np.float32), np.zeros(300, np.float32), np.zeros(300, np.float32)
    rates = np.float32(0.01), 0.9, 0.999
    if make is LegacyYogi:  # all hyperparameters are float32 there
        rates = tuple(map(np.float32, rates))
    rate, beta_1, beta_2 = map(float, rates)
    for step in range(STEPS):
        alpha = rate * np.sqrt(1 - beta_2 ** (step + 1)) / (1 - beta_1 ** (step + 1))
        YOGI.reference(p, gradient(step), m, v, *map(np.float32, (alpha, 1 - beta_1, 1 - beta_2, 1e-3)))
    return p


@FAMILIES
def test_a_rule_has_the_bits_of_its_numpy_form(make):
    np.testing.assert_array_equal(train(make, "replicated"), reference(make))


@FAMILIES
def test_both_modes_have_the_same_bits(several, make):
    results = [result for update in ("replicated", "shared") for result in several(train, make, update)]
    assert len({distopt.digest(result) for result in results}) == 1
    assert not np.array_equal(results[0], reference(make))


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"use_ema": True}, {"gradient_accumulation_steps": 2}])
def test_the_options_of_the_family_go_with_it(several, options):
    def run(update):
        return train(EXAMPLE.Yogi, update, **options)

    results = [value for update in ("replicated", "shared") for value in several(run, update)]
    assert len({distopt.digest(value) for value in results}) == 1


def test_slots_have_the_rules_names_and_are_state():
    w, old = Variable([1.0, 2.0], name="w"), LegacyYogi()
    old.apply_gradients([(np.float32([1, 1]), w)])
    assert old.get_slot_names() == ["m", "v"]
    new = EXAMPLE.Yogi()
    new.build([w])
    assert [variable.name.rpartition("_")[2] for variable in new.variables[2:]] == ["m", "v"]
    new.apply_gradients([([1.0, 1.0], w)])
    twin = EXAMPLE.Yogi.from_config(new.get_config())
    twin.build([w])
    twin.set_weights(new.get_weights())
    assert [v.numpy().tolist() for v in twin.variables] == [v.numpy().tolist() for v in new.variables]


@FAMILIES
def test_rows(make):
    """``sparse="all"``: as the dense gradient with zeros elsewhere."""
    both = [Variable(np.ones((4, 2), np.float32)) for _ in range(2)]
    rows = IndexedSlices(np.ones((2, 2), np.float32), [1, 1], (4, 2))
    for w, g in zip(both, (rows, rows.to_dense()), strict=True):
        optimizer = make()
        for _ in range(2):
            optimizer.apply_gradients([(g, w)])
    np.testing.assert_array_equal(*both)


@FAMILIES
def test_replicas_agree_on_the_scalars(several, make):
    def step():
        optimizer = make(beta_1=0.5 + 0.05 * distopt.replica_index())
        with pytest.raises(CollectiveMismatchError, match="one_minus_beta_1"):
            optimizer.apply_gradients([(np.ones(3, np.float32), Variable(np.ones(3, np.float32)))])

    several(step)


def test_another_number_of_scalars_is_refused():
    class Short(Optimizer):
        def update_rule(self):
            return Rule("halve", (), ("factor",), "all", lambda p, g, factor: None, "p -= factor * g")

        def rule_scalars(self, learning_rate):
            return ()

    with pytest.raises(InvalidArgumentError, match=r"Short: the rule 'halve' has the scalars \('factor',\), and 0"):
        Short().apply_gradients([([1.0], Variable([1.0]))])
