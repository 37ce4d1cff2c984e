"""A Keras model's trained variables on the JAX backend: their values are copied in and out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from distopt.optimizers import Optimizer
from distopt.variables.variable import Variable

LEAVES_GRADIENTS = True
"""True where a compiled step leaves its gradients to be used after it."""


class TrainedVariables:
    """The trained variables and their counterparts of distopt.

    Args:
        variables: the variables of Keras.
    """

    def __init__(self, variables: Sequence[Any]) -> None:
        self._theirs = list(variables)
        self.variables = [Variable(np.asarray(variable.value), name=variable.path) for variable in variables]

    def attach(self, optimizer: Optimizer) -> None:
        """Take the values of a built optimizer's variables."""
        self.write()

    def read(self, gradients: Sequence[Any]) -> list[Any]:
        """Return gradients as ``apply_gradients`` takes them; copy values that were assigned since the last step."""
        for theirs, ours in zip(self._theirs, self.variables, strict=True):
            value = np.asarray(theirs.value)
            if not np.array_equal(value, ours.value):
                ours.assign(value)
        return [None if gradient is None else np.asarray(gradient) for gradient in gradients]

    def write(self) -> None:
        """Copy the values of distopt's variables into those of Keras."""
        # JAX may take over the memory that it is given instead of copying it: it is given memory that nobody else has.
        values = jax.device_put([variable.numpy() for variable in self.variables])
        for theirs, value in zip(self._theirs, values, strict=True):
            theirs.assign(value)


def are_traced(gradients: Sequence[Any]) -> bool:
    """Return whether the gradients have no values yet, because ``jax.jit`` is compiling the step."""
    return any(isinstance(gradient, jax.core.Tracer) for gradient in gradients)


def uncompiled(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function as it is: under ``jax.jit`` it is recognised by its gradients (``are_traced``)."""
    return function
