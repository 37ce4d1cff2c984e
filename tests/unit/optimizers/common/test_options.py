"""Options that are set between steps: they take effect, or are refused where they are set; nothing breaks later."""

import itertools

import numpy as np
import pytest
from optimizer_table import ROWS

import distopt
from distopt import IndexedSlices, Strategy, Variable, optimizers
from distopt.errors import CollectiveMismatchError, InvalidArgumentError
from distopt.optimizers import legacy

GRADIENTS = [np.float32([0.5, -2.0, 1.0]), np.float32([-1.0, 0.25, 2.0]), np.float32([0.125, 1.5, -0.5])]

# A row's patterns are for the variables of some tests only.
pytestmark = pytest.mark.filterwarnings("ignore:.*exclude_layers.*fit no variable")


def options_of(optimizer):
    """Options whose type has another value to try."""
    lists = (getattr(optimizer, f"_distopt_{kind}", ()) for kind in ("hyperparameters", "arguments"))
    names = {*itertools.chain(*lists), "master_weights"}
    values = {name: getattr(optimizer, name, None) for name in sorted(names)}
    return {name: float(v) if isinstance(v, Variable) else v for name, v in values.items()}


def another(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2 or 0.5
    if isinstance(value, list):
        return [*value, "w"]
    return value


def step(optimizer, variables, k):
    optimizer.apply_gradients([(np.resize(GRADIENTS[k % 3], v.shape).astype(v.dtype), v) for v in variables])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_every_option_can_be_set_or_says_why_not(row):
    for name, value in options_of(row.make()).items():
        variables, optimizer = [Variable(np.ones(3), name="v"), Variable(np.ones((2, 3)), name="w")], row.make()
        step(optimizer, variables, 0)
        before, refusal = options_of(optimizer), None
        try:
            setattr(optimizer, name, another(value))
        except InvalidArgumentError as error:
            refusal = str(error)
        if refusal is not None:
            assert "Set it in the constructor" in refusal
            assert options_of(optimizer) == before
        step(optimizer, variables, 1)
        assert int(optimizer.iterations) == 2, name


def adam_in_numpy(gradients, *, amsgrad_from):
    """The formula of the legacy Adam, with β as powers of two, where AMSGrad begins in a later step."""
    w, m, v, largest = np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3)
    for t, g in enumerate(gradients, 1):
        m, v = 0.5 * m + 0.5 * g, 0.75 * v + 0.25 * g**2
        divisor = v
        if t > amsgrad_from:
            divisor = largest = np.maximum(largest, v)
        w = w - 0.125 * np.sqrt(1 - 0.75**t) / (1 - 0.5**t) * m / (np.sqrt(divisor) + 2.0**-4)
    return w


def new_adam():
    return legacy.Adam(0.125, beta_1=0.5, beta_2=0.75, epsilon=2.0**-4)


@pytest.mark.parametrize("begins", [0, 1, 2])
@pytest.mark.parametrize("update", ["replicated", "shared"])
def test_amsgrad_begins_where_it_is_set(begins, update):
    gradients = [GRADIENTS[k % 3] for k in range(5)]

    def train():
        with Strategy(distopt.get_strategy().communicator, update=update).scope():
            w, adam = Variable(np.zeros(3, "float32")), new_adam()
            for k, gradient in enumerate(gradients):
                if k == begins:
                    adam.amsgrad = True
                adam.apply_gradients([(gradient / 2, w)])
            return w.numpy(), adam.get_slot_names()

    for value, names in distopt.simulate(2, train):
        np.testing.assert_allclose(value, adam_in_numpy(gradients, amsgrad_from=begins), rtol=1e-5)
        assert names == ["m", "v", "vhat"]


def test_amsgrad_begins_for_sparse_gradients_too():
    w, adam = Variable(np.zeros((3, 2), "float32")), new_adam()
    for k in range(3):
        adam.amsgrad = k > 0
        adam.apply_gradients([(IndexedSlices([[1.0, 1.0]], [1], (3, 2)), w)])
    assert float(adam.get_slot(w, "vhat")[1, 0]) > 0


def test_amsgrad_of_one_replica_only_is_told_to_all():
    def train():
        w, adam = Variable(np.zeros(3, "float32")), new_adam()
        adam.apply_gradients([(GRADIENTS[0], w)])
        adam.amsgrad = distopt.replica_index() == 1
        with pytest.raises(CollectiveMismatchError, match="optimizer: replica 0"):
            adam.apply_gradients([(GRADIENTS[0], w)])

    distopt.simulate(2, train)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_centered_mean_begins_where_it_is_set(momentum):
    w, rmsprop = Variable(np.zeros(3, "float32")), legacy.RMSprop(0.125, rho=0.5, momentum=momentum)
    step(rmsprop, [w], 0)
    rmsprop.centered = True
    step(rmsprop, [w], 1)
    np.testing.assert_array_equal(rmsprop.get_slot(w, "mg").numpy(), GRADIENTS[1] / 2)


@pytest.mark.parametrize(
    ("make", "option", "value"),
    [
        (optimizers.SGD, "momentum", 0.75),
        (optimizers.RMSprop, "momentum", 0.75),
        (optimizers.RMSprop, "centered", True),
        (optimizers.Adam, "amsgrad", True),
        (legacy.RMSprop, "centered", True),
        (legacy.Adam, "amsgrad", True),
    ],
)
def test_before_the_first_step_an_option_is_as_in_the_constructor(make, option, value):
    x, y = Variable(np.zeros(3, "float32")), Variable(np.zeros(3, "float32"))
    expected, optimizer = make(**{option: value}), make()
    setattr(optimizer, option, value)
    for k in range(3):
        step(expected, [x], k)
        step(optimizer, [y], k)
    np.testing.assert_array_equal(x.numpy(), y.numpy())


@pytest.mark.parametrize(
    ("make", "option", "value"),
    [
        (optimizers.SGD, "momentum", 0.75),
        (optimizers.RMSprop, "momentum", 0.75),
        (optimizers.RMSprop, "centered", True),
        (optimizers.Adam, "amsgrad", True),
        (optimizers.AdamW, "amsgrad", True),
        (optimizers.Muon, "exclude_layers", ["w"]),
        (optimizers.Muon, "exclude_embeddings", False),
        (optimizers.Adam, "master_weights", True),
    ],
)
def test_an_option_that_needs_other_slots_is_refused_after_the_first_step(make, option, value):
    w, optimizer = Variable(np.zeros((2, 3)), name="w"), make()
    step(optimizer, [w], 0)
    with pytest.raises(
        InvalidArgumentError, match=f"^{option} = .*Set it in the constructor, or before the first step"
    ):
        setattr(optimizer, option, value)
    step(optimizer, [w], 1)


@pytest.mark.parametrize("make", [legacy.SGD, legacy.RMSprop])
@pytest.mark.parametrize("value", [0.75, lambda: 0.75])
def test_the_constructor_decides_on_momentum_in_the_legacy_family(make, value):
    w, optimizer = Variable(np.zeros(3)), make()
    with pytest.raises(InvalidArgumentError, match=r"^momentum = .*made without momentum.*Set it in the constructor"):
        optimizer.momentum = value
    optimizer.momentum = 0.0
    step(optimizer, [w], 0)
    with pytest.raises(InvalidArgumentError, match=r"^momentum = .*Set it in the constructor"):
        optimizer.momentum = value
    step(optimizer, [w], 1)


def test_momentum_can_end_and_begin_again():
    w, sgd = Variable([0.0]), optimizers.SGD(1.0, momentum=0.5)
    for momentum, expected in ((0.5, -1.0), (0.0, -2.0), (0.5, -3.5)):
        sgd.momentum = momentum
        sgd.apply_gradients([([1.0], w)])
        assert float(w[0]) == expected
