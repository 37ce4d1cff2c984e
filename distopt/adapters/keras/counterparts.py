"""The counterparts of Keras' optimizers and of their parts in distopt."""

from __future__ import annotations

from typing import Any

import keras

from distopt import optimizers
from distopt.errors import InvalidArgumentError


def counterpart(optimizer: Any) -> tuple[optimizers.Optimizer, list[Any]]:
    """Return distopt's optimizer in place of one of Keras, and the state to give it when it is built.

    Raises:
        InvalidArgumentError: distopt has no such optimizer, or it is of the legacy family or trains other variables.
    """
    state: list[Any] = []
    if isinstance(optimizer, keras.optimizers.Optimizer):
        if optimizer.built:
            state = [keras.ops.convert_to_numpy(variable.value) for variable in optimizer.variables]
        optimizer = {"class_name": type(optimizer).__name__, "config": optimizer.get_config()}
    inner = optimizers.get(optimizer)
    if not isinstance(inner, optimizers.Optimizer):
        raise InvalidArgumentError(
            f"DistributedOptimizer received {inner!r} of the legacy family: Keras 3 has the optimizers of "
            f"distopt.optimizers, as in distopt.optimizers.{type(inner).__name__}(...)"
        )
    if inner.built:
        raise InvalidArgumentError(
            f"DistributedOptimizer received the optimizer {inner.name!r}, which trains other variables: make another"
        )
    return inner, state


def current_rate(inner: optimizers.Optimizer) -> float:
    """Return the learning rate now, also where it is a schedule or a function."""
    return float(inner.learning_rate)


def constrained(constraint: Any, value: Any) -> Any:
    """Return the value after a constraint of Keras."""
    return keras.ops.convert_to_numpy(constraint(keras.ops.convert_to_tensor(value)))


def number(variable: Any) -> Any:
    """Return the value of a Keras variable of shape () as a number of Python."""
    return variable.value.item()
