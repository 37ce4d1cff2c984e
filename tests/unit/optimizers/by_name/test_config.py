"""Optimizers as dictionaries, copies and pickles."""

import copy
import json
import pickle

import numpy as np
import pytest

from distopt import Variable, optimizers
from distopt.optimizers import legacy
from distopt.optimizers.common.access import family_of
from distopt.optimizers.schedules import CosineDecay, ExponentialDecay, LearningRateSchedule

ALL = [optimizers.SGD, optimizers.Adam, legacy.SGD, legacy.Adam, legacy.NonFusedAdam]
OPTIONS = {"SGD": {"momentum": 0.5, "nesterov": True}, "Adam": {"beta_1": 0.5, "amsgrad": True}}


def options_of(cls):
    return OPTIONS[cls.__name__.removeprefix("NonFused")]


def halve(grads_and_vars):
    return [(gradient / 2, variable) for gradient, variable in grads_and_vars]


class Staircase(LearningRateSchedule):
    def __call__(self, step):
        return 0.5

    def get_config(self):
        return {}


@pytest.mark.parametrize("cls", ALL)
def test_config_round_trip(cls):
    optimizer = cls(learning_rate=0.25, clipnorm=2.0, name="mine", **options_of(cls))
    optimizer.apply_gradients([([1.0], Variable([1.0]))])
    config = optimizer.get_config()
    twin = cls.from_config(json.loads(json.dumps(config)))
    assert twin.get_config() == config
    assert config.items() >= {"learning_rate": 0.25, "clipnorm": 2.0, "name": "mine", **options_of(cls)}.items()


@pytest.mark.parametrize("cls", ALL)
def test_schedules_come_back_from_the_config(cls):
    config = cls(learning_rate=ExponentialDecay(1.0, 10, 0.5)).get_config()
    twin = cls.from_config(json.loads(json.dumps(config)))
    assert twin.get_config() == config
    x = Variable([0.0])
    twin.apply_gradients([([1.0], x)])
    assert float(x[0]) == pytest.approx(-1.0, abs=1e-4)


@pytest.mark.parametrize("cls", ALL)
def test_schedules_of_ones_own_need_custom_objects(cls):
    config = cls(learning_rate=Staircase()).get_config()
    with pytest.raises(ValueError, match="custom_objects"):
        cls.from_config(config)
    assert cls.from_config(config, custom_objects={"Staircase": Staircase}).get_config() == config
    assert isinstance(config["learning_rate"], dict), "the dictionary is not changed"


def test_the_eleven_keys_of_keras_3():
    keys = set(optimizers.Optimizer(name="o").get_config())
    assert keys == {
        "name", "learning_rate", "weight_decay", "clipnorm", "global_clipnorm", "clipvalue", "use_ema", "ema_momentum",
        "ema_overwrite_frequency", "loss_scale_factor", "gradient_accumulation_steps",
    }  # fmt: skip


def test_legacy_config_has_what_was_given():
    assert legacy.Optimizer("base").get_config() == {"name": "base"}
    assert legacy.Optimizer("base", clipvalue=1.0, global_clipnorm=2.0).get_config() == {
        "name": "base",
        "clipvalue": 1.0,
        "global_clipnorm": 2.0,
    }
    config = legacy.Adam(decay=0.5).get_config()
    assert set(config) == {"name", "learning_rate", "decay", "beta_1", "beta_2", "epsilon", "amsgrad"}
    assert config["decay"] == 0.5


def test_a_function_is_saved_as_its_value_in_the_legacy_family_and_as_itself_in_keras_3():
    rate = lambda: 0.5  # noqa: E731
    assert legacy.SGD(rate).get_config()["learning_rate"] == 0.5
    assert optimizers.SGD(rate).get_config()["learning_rate"] is rate


def test_lr_in_an_old_config():
    config = {"lr": 0.5, "name": "old"}
    assert float(legacy.SGD.from_config(config).learning_rate) == 0.5
    assert config == {"lr": 0.5, "name": "old"}


def run(optimizer, x, steps):
    for k in range(steps):
        optimizer.apply_gradients([(np.full(x.shape, k + 1, np.float32), x)])


@pytest.mark.parametrize("cls", ALL)
def test_pickled_with_its_variables_it_goes_on_to_the_bit(cls):
    x = Variable([1.0, 2.0, 3.0], name="x")
    optimizer = cls(learning_rate=CosineDecay(0.5, 10), global_clipnorm=2.0, **options_of(cls))
    run(optimizer, x, 3)
    twin, y = pickle.loads(pickle.dumps((optimizer, x)))
    assert len(pickle.dumps(optimizer)) < 10_000
    run(optimizer, x, 3)
    run(twin, y, 3)
    assert int(twin.iterations) == 6
    np.testing.assert_array_equal(x.numpy(), y.numpy())
    assert twin.get_config() == optimizer.get_config()


@pytest.mark.parametrize("cls", ALL)
def test_a_pickle_before_the_first_step(cls):
    optimizer = cls(gradient_transformers=[halve])
    twin = pickle.loads(pickle.dumps(optimizer))
    assert twin.get_config() == optimizer.get_config()
    x, y = Variable([1.0]), Variable([1.0])
    run(optimizer, x, 2)
    run(twin, y, 2)
    np.testing.assert_array_equal(x.numpy(), y.numpy())


@pytest.mark.parametrize("cls", ALL)
def test_a_deep_copy_steps_the_same_variables_with_state_of_its_own(cls):
    x = Variable([1.0, 2.0], name="x")
    optimizer = cls(learning_rate=0.5, **options_of(cls))
    run(optimizer, x, 2)
    held = [v.numpy() for v in state(optimizer)]
    twin, start = copy.deepcopy(optimizer), x.numpy()
    run(twin, x, 2)
    from_twin = x.numpy()
    for variable, old in zip(state(optimizer), held, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)
    x.assign(start)
    run(optimizer, x, 2)
    np.testing.assert_array_equal(x.numpy(), from_twin)
    assert len(state(twin)) == len(held)


@pytest.mark.parametrize("cls", ALL)
def test_copied_with_its_variables_it_steps_the_copies(cls):
    x = Variable([1.0, 2.0], name="x")
    optimizer = cls(learning_rate=0.5, **options_of(cls))
    run(optimizer, x, 2)
    y, twin = copy.deepcopy((x, optimizer))
    before = x.numpy()
    run(twin, y, 2)
    np.testing.assert_array_equal(x.numpy(), before)
    run(optimizer, x, 2)
    np.testing.assert_array_equal(x.numpy(), y.numpy())


def state(optimizer):
    return optimizer.weights if isinstance(optimizer, legacy.Optimizer) else optimizer.variables


@pytest.mark.parametrize("cls", ALL)
def test_copied_before_its_variables_it_steps_the_originals(cls):
    x = Variable([1.0, 2.0], name="x")
    optimizer = cls(learning_rate=0.5, **options_of(cls))
    run(optimizer, x, 1)
    twin, y = copy.deepcopy((optimizer, x))
    run(twin, x, 1)
    assert (x.numpy() != y.numpy()).all()
    with pytest.raises(ValueError, match=r"same name"):
        run(twin, y, 1)
    twin, y = pickle.loads(pickle.dumps((optimizer, x)))
    run(twin, y, 1)
    assert len(list(family_of(twin).trained())) == 1


class WarmUp(LearningRateSchedule):
    """As Hugging Face's: a schedule in a schedule, which its config holds as it is."""

    def __init__(self, initial_learning_rate, decay_schedule_fn, warmup_steps, name=None):
        self.initial_learning_rate, self.decay_schedule_fn = initial_learning_rate, decay_schedule_fn
        self.warmup_steps, self.name = warmup_steps, name

    def __call__(self, step):
        if float(step) < self.warmup_steps:
            return self.initial_learning_rate * float(step) / self.warmup_steps
        return self.decay_schedule_fn(step - self.warmup_steps)

    def get_config(self):
        return vars(self)


@pytest.mark.parametrize("family", [optimizers, optimizers.legacy])
def test_a_schedule_in_a_schedules_config(family):
    schedule = WarmUp(0.5, ExponentialDecay(0.5, 1, 0.5), 2)
    config = json.loads(json.dumps(family.serialize(family.SGD(schedule))))
    again = family.deserialize(config, {"WarmUp": WarmUp})
    x = Variable([0.0])
    for _ in range(4):
        again.apply_gradients([([1.0], x)])
    assert float(x[0]) == -(0.0 + 0.25 + 0.5 + 0.25)
