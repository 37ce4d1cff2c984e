"""One training run as Keras 3 does it and as distopt does it, and random runs to compare them on."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # read once, by the first import of keras in a process

import warnings
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import keras
import numpy as np

import distopt

WRAPPERS = {"LossScaleOptimizer", "MultiOptimizer"}
BRANCHING = {"LossScaleOptimizer", "CosineDecay", "CosineDecayRestarts"}


class Spec(NamedTuple):
    """What both libraries can make: a class, and its arguments, which may be such again."""

    name: str
    arguments: dict[str, Any]


class Case(NamedTuple):
    """A run: ``gradients`` holds a list for each step; None is a gradient that is missing."""

    optimizer: Spec
    variables: dict[str, np.ndarray]
    gradients: list[list[np.ndarray | None]]
    excluded: tuple[str, ...] = ()
    non_negative: tuple[str, ...] = ()


class Moment(NamedTuple):
    """Copies of the variables and of the optimizer's, in its order."""

    variables: list[np.ndarray]
    state: list[np.ndarray]


KERAS = SimpleNamespace(
    optimizers=keras.optimizers,
    variable=lambda value, name: keras.Variable(value, name=name),
    constraint=keras.constraints.NonNeg,
    read=lambda variable: np.asarray(variable.value),
)
DISTOPT = SimpleNamespace(
    optimizers=distopt.optimizers,
    variable=lambda value, name: distopt.Variable(value, name=name),
    constraint=distopt.constraints.NonNeg,
    read=lambda variable: variable.numpy(),
)


def make(library, value):
    """Make what a Spec says, at any depth."""
    if isinstance(value, dict):
        return {key: make(library, inner) for key, inner in value.items()}
    if not isinstance(value, Spec):
        return value
    owners = library.optimizers, library.optimizers.schedules
    owner = next(owner for owner in owners if hasattr(owner, value.name))
    return getattr(owner, value.name)(**make(library, value.arguments))


class Run:
    """One library on one case."""

    def __init__(self, library, case):
        self.library, self.case = library, case
        self.variables = [library.variable(value, name) for name, value in case.variables.items()]
        for variable, name in zip(self.variables, case.variables, strict=True):
            if name in case.non_negative:
                variable.constraint = library.constraint()
        self.optimizer = make(library, case.optimizer)
        # On a wrapper it has no effect in Keras, and is refused here.
        if case.excluded and case.optimizer.name not in WRAPPERS:
            self.optimizer.exclude_from_weight_decay(var_names=list(case.excluded))
        self.optimizer.build(self.variables)

    def resume(self, moment):
        """Go on from where another run was."""
        for variable, value in zip(self.variables, moment.variables, strict=True):
            variable.assign(value)
        self.optimizer.set_weights(moment.state)
        return self

    def steps(self, begin=0):
        """Do the steps, and return the values and the state before the first and after each."""
        history = [self.moment()]
        with warnings.catch_warnings(), jax.disable_jit(self.library is KERAS and branches(self.case.optimizer)):
            warnings.filterwarnings("ignore", "Gradients do not exist for variables")
            for gradients in self.case.gradients[begin:]:
                self.optimizer.apply(list(gradients), self.variables)
                history.append(self.moment())
        return history

    def moment(self):
        read = self.library.read
        return Moment([read(v) for v in self.variables], [read(v) for v in self.optimizer.variables])


def branches(value):
    """Whether Keras branches on a number: JAX would trace and compile both branches anew in every step."""
    if isinstance(value, Spec):
        return value.name in BRANCHING or branches(value.arguments)
    if isinstance(value, dict):
        return bool(value.get("gradient_accumulation_steps")) or any(map(branches, value.values()))
    return False


def assert_alike(ours, theirs, rtol=2e-6):
    """Compare two histories: the rounding of float32 per step, in what is kept and in what is added to it.

    What has size s is rounded by less than ``s ε`` in every step, mostly up and down; what it moves by, d in all, comes
    from some tens of operations that the libraries round at different places: ``5e-7 s + rtol d``.
    """
    for kind in ("variables", "state"):
        mine, others = (
            list(zip(*[getattr(moment, kind) for moment in history], strict=True)) for history in (ours, theirs)
        )
        assert len(mine) == len(others), kind
        for k, (got, expected) in enumerate(zip(mine, others, strict=True)):
            assert got[0].shape == expected[0].shape, f"{kind}[{k}]"
            a, b = np.stack(got), np.stack(expected)
            movement, size = np.abs(np.diff(b, axis=0)).sum(axis=0).max(initial=0), np.abs(b).max(initial=0)
            tolerance = 5e-7 * size + rtol * movement if b.dtype.kind == "f" else 0
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=f"{kind}[{k}], by step")
