"""The first values of the variables that an optimizer makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np

from distopt.arrays import Array
from distopt.errors import InvalidArgumentError

Shape: TypeAlias = "tuple[int, ...]"


def _truncated(generator: np.random.Generator, shape: Shape) -> Array:
    values = generator.normal(0, 0.05, shape)
    while (outside := np.abs(values) > 0.1).any():
        values = np.where(outside, generator.normal(0, 0.05, shape), values)
    return np.asarray(values)


_MADE: dict[str, Callable[[np.random.Generator, Shape], Array]] = {
    "zeros": lambda _, shape: np.zeros(shape),
    "ones": lambda _, shape: np.ones(shape),
    "identity": lambda _, shape: np.eye(shape[0], shape[1]),
    "randomnormal": lambda generator, shape: np.asarray(generator.normal(0, 0.05, shape)),
    "randomuniform": lambda generator, shape: np.asarray(generator.uniform(-0.05, 0.05, shape)),
    "truncatednormal": _truncated,
}


def initial_value(initializer: Any, shape: Shape, dtype: np.dtype[Any], name: str | None) -> Array:
    """Return the first value of a variable.

    Args:
        initializer: the name of one of Keras' initializers; a function of (shape, dtype), or a class of such; or an
            array of the shape.
        shape: the variable's shape.
        dtype: its dtype.
        name: its name: random values follow from it, so that they are the same on every replica.

    Raises:
        InvalidArgumentError: nothing of these.

    Example:
        >>> initial_value("ones", (2,), np.dtype("float32"), "m")
        array([1., 1.], dtype=float32)
    """
    if isinstance(initializer, str):
        make = _MADE.get(initializer.lower().replace("_", ""))
        if make is not None:
            return make(np.random.default_rng(crc32(f"{name} {shape}".encode())), shape).astype(dtype)
    elif callable(initializer):
        made: Any = initializer() if inspect.isclass(initializer) else initializer
        return np.asarray(made(shape, dtype), dtype)
    elif initializer is not None and np.shape(initializer) == shape:
        return np.array(initializer, dtype)
    raise InvalidArgumentError(
        f"initializer={initializer!r} of a variable of shape {shape}: expected 'zeros', 'ones', 'identity', "
        "'random_normal', 'random_uniform', 'truncated_normal', a function of (shape, dtype), or an array of that shape"
    )
