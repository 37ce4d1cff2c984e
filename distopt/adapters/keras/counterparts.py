"""The counterparts of Keras' optimizers and of their parts in distopt."""

from __future__ import annotations

from typing import Any

import keras

from distopt import optimizers
from distopt.errors import InvalidArgumentError


def counterpart(optimizer: Any) -> tuple[optimizers.Optimizer, list[Any]]:
    """Return distopt's optimizer in place of one of Keras, and the state to give it when it is built.

    Raises:
        InvalidArgumentError: distopt has no such optimizer, or it is of the legacy family or trains other variables;
            a class of the user's own with the name of one of Keras.
    """
    state: list[Any] = []
    if isinstance(optimizer, keras.optimizers.Optimizer):
        for part in [optimizer, *parts(optimizer)]:
            _check_type(type(part))
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


def parts(optimizer: Any) -> list[Any]:
    """Return the optimizers inside one of Keras."""
    inside = vars(optimizer).get("inner_optimizer")
    return [inside] if inside is not None else list(getattr(optimizer, "optimizers", ()))


def _check_type(cls: type) -> None:
    name, theirs = cls.__name__, getattr(keras.optimizers, cls.__name__, None)
    if theirs is not None and cls.__module__.partition(".")[0] != "keras":
        raise InvalidArgumentError(
            f"DistributedOptimizer received a {cls.__module__}.{name}, a class of your own with the name of one of "
            f"Keras: distopt's {name} would do another update. Write it as a subclass of distopt.optimizers.Optimizer"
        )


def current_rate(inner: optimizers.Optimizer) -> float:
    """Return the learning rate now, also where it is a schedule or a function."""
    return float(inner.learning_rate)


def constrained(constraint: Any, value: Any) -> Any:
    """Return the value after a constraint of Keras."""
    return keras.ops.convert_to_numpy(constraint(keras.ops.convert_to_tensor(value)))


def number(variable: Any) -> Any:
    """Return the value of a Keras variable of shape () as a number of Python."""
    return variable.value.item()
