"""Optimizers and schedules as people see them, and attributes whose names they have misspelt."""

from __future__ import annotations

import warnings

import pytest

from distopt import optimizers
from distopt.optimizers import legacy, schedules

COSINE = schedules.CosineDecay(0.1, 10)


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (lambda: optimizers.Adam(0.1), "Adam(learning_rate=0.1)"),
        (lambda: optimizers.SGD(), "SGD(learning_rate=0.01)"),
        (lambda: optimizers.SGD(0.5, momentum=0.9, name="mine"), "SGD(name='mine', learning_rate=0.5, momentum=0.9)"),
        (lambda: optimizers.AdamW(0.1, clipnorm=1), "AdamW(learning_rate=0.1, clipnorm=1.0)"),
        (
            lambda: optimizers.Adam(COSINE),
            "Adam(learning_rate=CosineDecay(initial_learning_rate=0.1, decay_steps=10))",
        ),
        (
            lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.1)),
            "LossScaleOptimizer(inner_optimizer=Adam(learning_rate=0.1))",
        ),
        (lambda: legacy.Adam(0.1), "Adam(learning_rate=0.1)"),
        (lambda: legacy.SGD(0.3, momentum=0.9, decay=0.1), "SGD(learning_rate=0.3, decay=0.1, momentum=0.9)"),
        (lambda: legacy.Adam(0.1, clipvalue=2.0), "Adam(learning_rate=0.1, clipvalue=2.0)"),
        (lambda: schedules.Warmup(COSINE, 3), f"Warmup(schedule={COSINE}, warmup_steps=3)"),
        (
            lambda: schedules.PiecewiseConstantDecay([1], [0.1, 2.0]),
            "PiecewiseConstantDecay(boundaries=[1], values=[0.1, 2.0])",
        ),
    ],
)
def test_the_repr_is_the_call_that_makes_one(thing, text):
    assert repr(thing()) == text


@pytest.mark.parametrize("family", [optimizers, legacy])
def test_the_repr_calls_no_function_of_the_users(family):
    assert repr(family.Adam(lambda: 1 / 0)).startswith("Adam(learning_rate=<function")


class Broken(optimizers.SGD):
    def __init__(self):
        pass


class Unwritten(schedules.LearningRateSchedule):
    pass


@pytest.mark.parametrize("thing", [Broken(), Unwritten(), legacy.SGD.__new__(legacy.SGD)])
def test_the_repr_never_fails(thing):
    assert repr(thing) == object.__repr__(thing)


@pytest.mark.parametrize(
    ("optimizer", "name", "meant"),
    [
        (lambda: optimizers.Adam(), "learningrate", "learning_rate"),
        (lambda: optimizers.Adam(), "learn_rate", "learning_rate"),
        (lambda: optimizers.Adam(), "beta1", "beta_1"),
        (lambda: optimizers.SGD(), "momentun", "momentum"),
        (lambda: optimizers.SGD(), "clip_norm", "clipnorm"),
        (lambda: optimizers.LossScaleOptimizer(optimizers.SGD()), "learningrate", "learning_rate"),
        (lambda: legacy.SGD(), "learningrate", "learning_rate"),
        (lambda: legacy.SGD(), "clip_value", "clipvalue"),
        (lambda: legacy.LossScaleOptimizer(legacy.SGD()), "learningrate", "learning_rate"),
    ],
)
def test_a_misspelt_attribute_is_a_warning_once(optimizer, name, meant):
    made = optimizer()
    with pytest.warns(UserWarning, match=f"knows no '{name}', .*: did you mean '{meant}'") as caught:
        setattr(made, name, 0.5)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        setattr(made, name, 0.25)
    assert getattr(made, name) == 0.25


class Own(optimizers.Adam):
    pass


@pytest.mark.parametrize("family", [optimizers, legacy])
def test_other_attributes_and_those_of_subclasses_are_the_users_own(family):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("note", "beta_3", "steps_done", "_learningrate", "lr", "learning_rate"):
            setattr(family.Adam(), name, 0.5)
        Own().learningrate = 0.5
