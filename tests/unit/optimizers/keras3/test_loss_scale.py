"""Attributes that are set later take effect or raise; the dynamic loss scale of the Keras 3 family, around anything."""

import copy

import numpy as np
import pytest

from distopt import Variable, simulate
from distopt.checkpoint import Checkpointer
from distopt.errors import InvalidArgumentError
from distopt.optimizers import SGD, Adam, LossScaleOptimizer, MultiOptimizer, OptimizerMap, RMSprop


@pytest.mark.parametrize(("cls", "arguments"), [(SGD, {}), (RMSprop, {"centered": True})])
def test_momentum_that_is_set_before_the_first_step_counts(cls, arguments):
    x, y = Variable(0.0), Variable(0.0)
    later, at_once = cls(0.1), cls(0.1, momentum=0.9, **arguments)
    later.momentum = 0.9
    for name, value in arguments.items():
        setattr(later, name, value)
    for _ in range(2):
        later.apply_gradients([(1.0, x)])
        at_once.apply_gradients([(1.0, y)])
    assert float(x) == float(y)
    if cls is SGD:
        assert float(x) == pytest.approx(-0.29)


def test_the_scale_of_the_first_step_can_be_set_before_it():
    x, optimizer = Variable(0.0), LossScaleOptimizer(SGD(1.0), initial_scale=8.0)
    optimizer.initial_scale = 4.0
    assert float(optimizer.scale_loss(1.0)) == 4.0
    optimizer.apply_gradients([(4.0, x)])
    assert (float(x), optimizer.get_config()["initial_scale"]) == (-1.0, 4.0)
    with pytest.raises(InvalidArgumentError, match=r"has begun with 4\.0: set the scale itself"):
        optimizer.initial_scale = 2.0
    with pytest.raises(InvalidArgumentError, match="initial_scale=0"):
        LossScaleOptimizer(SGD()).initial_scale = 0


def test_the_steps_of_growth_can_be_set_at_any_time():
    def train():
        x, optimizer = Variable(0.0), LossScaleOptimizer(SGD(1.0), initial_scale=1.0)
        scales = []
        for growth in (2000, 1, 1, 3):
            optimizer.dynamic_growth_steps = growth
            optimizer.apply_gradients([(0.0, x)])
            scales.append(float(optimizer.dynamic_scale))
        return scales, optimizer.get_config()["dynamic_growth_steps"]

    assert simulate(2, train) == [([1.0, 2.0, 4.0, 4.0], 3)] * 2
    with pytest.raises(InvalidArgumentError, match="dynamic_growth_steps=0"):
        LossScaleOptimizer(SGD()).dynamic_growth_steps = 0


def test_what_early_versions_wrote_into_configs_is_taken_where_it_has_no_effect():
    config = LossScaleOptimizer(SGD(0.5, name="inner"), name="scaled").get_config()
    early = config | {
        "weight_decay": None, "clipnorm": None, "global_clipnorm": None, "clipvalue": None, "use_ema": False,
        "ema_momentum": 0.99, "ema_overwrite_frequency": None, "loss_scale_factor": None,
        "gradient_accumulation_steps": None, "dynamic": True,
    }  # fmt: skip
    assert LossScaleOptimizer.from_config(early).get_config() == config
    with pytest.raises(InvalidArgumentError, match=r"\['clipnorm'\]: set such arguments on the `inner_optimizer`"):
        LossScaleOptimizer.from_config(early | {"clipnorm": 1.0})
    with pytest.raises(InvalidArgumentError, match=r"dynamic=False.*loss_scale_factor of the inner optimizer"):
        LossScaleOptimizer(SGD(), dynamic=False)


def scaled_several(**arguments):
    several = MultiOptimizer(OptimizerMap(SGD(1.0, name="a"), {".*bias": Adam(0.5, name="b")}), **arguments)
    return LossScaleOptimizer(several, initial_scale=4.0, name="scaled")


def variables():
    return Variable([1.0], name="x"), Variable([1.0], name="bias")


@pytest.mark.parametrize("count", [1, 2])
def test_it_goes_around_several_optimizers(count):
    def train():
        x, bias = variables()
        optimizer = scaled_several()
        optimizer.apply_gradients([([4.0 / count], x), ([4.0 / count], bias)])
        optimizer.apply_gradients([([np.inf], x), ([1.0], bias)])
        return float(x[0]), float(bias[0]), float(optimizer.dynamic_scale), int(optimizer.iterations)

    for x, bias, scale, iterations in simulate(count, train):
        assert (x, scale, iterations) == (0.0, 2.0, 1)
        assert bias == pytest.approx(0.5, abs=1e-5)


def test_it_accumulates_around_several_optimizers():
    x, bias = variables()
    optimizer = scaled_several(gradient_accumulation_steps=2)
    for gradient in (2.0, 6.0):
        optimizer.apply_gradients([([gradient], x), ([0.0], bias)])
    assert float(x[0]) == 0.0


def test_its_state_goes_through_weights_configs_and_checkpoints(tmp_path):
    def step(optimizer, x, bias):
        optimizer.apply_gradients([([4.0], x), ([2.0], bias)])

    first = variables()
    optimizer = scaled_several()
    step(optimizer, *first)
    twin_x, twin_bias, twin = copy.deepcopy((*first, optimizer))
    saved = Checkpointer(tmp_path, optimizer=optimizer, variables=first)
    saved.save()
    saved.wait()
    step(optimizer, *first)
    step(twin, twin_x, twin_bias)
    second = variables()
    again = LossScaleOptimizer.from_config(optimizer.get_config())
    Checkpointer(tmp_path, optimizer=again, variables=second).restore()
    step(again, *second)
    assert [float(v[0]) for v in first] == [float(v[0]) for v in second] == [float(twin_x[0]), float(twin_bias[0])]
    for mine, theirs in zip(optimizer.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(AttributeError, match=r"on each of its \.optimizers"):
        _ = optimizer.learning_rate
