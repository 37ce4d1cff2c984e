"""State from Keras 3 and back: the list of its variables' values, in its order, goes on here with the same numbers."""

import os
import re

os.environ["KERAS_BACKEND"] = "jax"  # read once, by the first import of keras in a process

import jax
import keras
import numpy as np
import pytest

import distopt
from distopt.optimizers import convert_weights, legacy

BEFORE, AFTER, BACK = range(4), range(4, 7), range(7, 9)
CASES = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "use_ema": True, "weight_decay": 0.01}),
    ("SGD", {"gradient_accumulation_steps": 2}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("Adadelta", {}),
    ("Adagrad", {}),
    ("Adamax", {}),
    ("Adafactor", {}),
    ("Nadam", {}),
    ("Ftrl", {}),
    ("Lion", {}),
    ("Lamb", {}),
    ("Muon", {}),
    ("ScheduleFreeAdamW", {}),
]
SHAPES = {"kernel": (4, 3), "bias": (3,)}


def values():
    return [np.random.default_rng(5).normal(size=shape).astype(np.float32) for shape in SHAPES.values()]


def gradients(step):
    rng = np.random.default_rng(step)
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES.values()]


class InKeras:
    """An optimizer of Keras and its variables."""

    def __init__(self, make):
        self.variables = [keras.Variable(v, name=name) for name, v in zip(SHAPES, values(), strict=True)]
        self.optimizer = make(keras.optimizers)
        self.optimizer.build(self.variables)
        self.step = jax.jit(self.optimizer.stateless_apply)

    def get(self):
        return [np.asarray(v.value) for v in self.optimizer.variables], [np.asarray(v.value) for v in self.variables]

    def set(self, state):
        for variable, value in zip(self.optimizer.variables, state, strict=True):
            variable.assign(value)  # set_weights of its LossScaleOptimizer leaves the inner one as it is

    def train(self, steps):
        everything = [*self.variables, *self.optimizer.variables]
        for step in steps:
            state, trained = [v.value for v in self.optimizer.variables], [v.value for v in self.variables]
            trained, state = self.step(state, gradients(step), trained)
            for variable, value in zip(everything, [*trained, *state], strict=True):
                variable.assign(value)


class Here:
    """An optimizer of distopt and its variables."""

    def __init__(self, make):
        self.variables = [distopt.Variable(v, name=name) for name, v in zip(SHAPES, values(), strict=True)]
        self.optimizer = make(distopt.optimizers)
        self.optimizer.build(self.variables)

    def get(self):
        return self.optimizer.get_weights(), [v.numpy() for v in self.variables]

    def set(self, state):
        self.optimizer.set_weights(state)

    def train(self, steps):
        for step in steps:
            self.optimizer.apply(gradients(step), self.variables)


def move(source, target):
    state, variables = source.get()
    target.set(state)
    for variable, value in zip(target.variables, variables, strict=True):
        variable.assign(value)


def assert_equal(one, other):
    for there, here in zip(one.get(), other.get(), strict=True):
        for value, expected in zip(there, here, strict=True):
            np.testing.assert_allclose(np.asarray(value, np.float64), expected, rtol=2e-4, atol=2e-6)


def order(optimizer, attribute):
    """The names of the state; Keras calls u_product of Nadam nothing, and the means of Adafactor as their variable."""
    names = [re.sub(r"_(row|column)_means$", "", getattr(v, attribute).split("/")[-1]) for v in optimizer.variables]
    return ["u_product" if name.startswith("variable") else name for name in names]


def simple(name, options):
    def make(optimizers):
        rate = 0.5 if name == "Adadelta" else 0.01
        return getattr(optimizers, name)(learning_rate=rate, name="o", **options)

    return make


def scaled(optimizers):
    return optimizers.LossScaleOptimizer(optimizers.Adam(0.01), initial_scale=4.0, dynamic_growth_steps=2, name="o")


@pytest.mark.parametrize(
    "make", [*(simple(*case) for case in CASES), scaled], ids=[*(f"{n}-{'-'.join(o)}" for n, o in CASES), "LossScale"]
)
def test_state_goes_there_and_back(make):
    theirs, ours = InKeras(make), Here(make)
    assert order(ours.optimizer, "name") == order(theirs.optimizer, "path")
    theirs.train(BEFORE)
    move(theirs, ours)
    for one in (theirs, ours):
        one.train(AFTER)
    assert_equal(theirs, ours)
    theirs.train(BACK)
    move(ours, theirs)
    assert_equal(theirs, ours)
    for one in (theirs, ours):
        one.train(BACK)
    assert_equal(theirs, ours)


@pytest.mark.parametrize("name", ["SGD", "Adam", "Adamax", "Adadelta"])
def test_state_of_the_legacy_family_goes_on_in_keras(name):
    options = {"momentum": 0.9} if name == "SGD" else {}
    make = simple(name, options)
    old, described, theirs = getattr(legacy, name)(learning_rate=0.01, **options), Here(make), InKeras(make)
    if name == "Adadelta":
        old.learning_rate = 0.5
    old_variables = [distopt.Variable(v) for v in values()]
    for step in range(3):
        old.apply_gradients(zip(gradients(step), old_variables, strict=True))
    theirs.optimizer.set_weights(convert_weights(old.get_weights(), old, described.optimizer))
    for variable, value in zip(theirs.variables, old_variables, strict=True):
        variable.assign(value.numpy())
    theirs.train(range(3, 5))
    for step in range(3, 5):
        old.apply_gradients(zip(gradients(step), old_variables, strict=True))
    for there, here in zip(theirs.variables, old_variables, strict=True):
        np.testing.assert_allclose(np.asarray(there.value), here.numpy(), rtol=1e-5, atol=1e-6)
