"""The first values of the variables that an optimizer makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from distopt import initializers
from distopt.arrays import Array
from distopt.errors import InvalidArgumentError


def first_value(initializer: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return the first value of a slot or another variable.

    Args:
        initializer: one of ``distopt.initializers``, its name, its dictionary or its class; a function of
            (shape, dtype); or the value itself.
        shape: the shape; a value keeps its own.
        dtype: the dtype.

    Raises:
        InvalidArgumentError: an unknown name.

    Example:
        >>> first_value("ones", (2,), np.dtype("float32"))
        array([1., 1.], dtype=float32)
    """
    if isinstance(initializer, (str, Mapping)) or callable(initializer):
        made: Array = np.asarray(initializers.get(initializer)(shape, dtype), dtype)
        return made
    return np.array(initializer, dtype)


def value_of_shape(initializer: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return the first value of a variable, which has to have its shape.

    Raises:
        InvalidArgumentError: another shape, or none; an unknown name.
    """
    if initializer is None or (value := first_value(initializer, shape, dtype)).shape != shape:
        raise InvalidArgumentError(
            f"initializer={initializer!r} of a variable of shape {shape}: expected the name of an initializer, such as "
            "'zeros', a function of (shape, dtype), or an array of that shape"
        )
    return value
