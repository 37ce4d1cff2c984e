"""Values as TensorFlow and JAX know them: what is computed in place is a new one."""

from __future__ import annotations

from typing import Any

import numpy as np


class Value(np.ndarray):
    """An array whose ``+=`` and the like return a new array, so that another name of the old one keeps its value.

    Example:
        >>> gradient = np.array([1.0]).view(Value)
        >>> change = gradient
        >>> change += 1
        >>> float(gradient[0]), float(change[0])
        (1.0, 2.0)
    """

    __iadd__ = np.ndarray.__add__  # type: ignore[assignment]
    __isub__ = np.ndarray.__sub__  # type: ignore[assignment]
    __imul__ = np.ndarray.__mul__  # type: ignore[assignment]
    __itruediv__ = np.ndarray.__truediv__  # type: ignore[assignment]
    __ifloordiv__ = np.ndarray.__floordiv__  # type: ignore[assignment]
    __imod__ = np.ndarray.__mod__  # type: ignore[assignment]
    __ipow__ = np.ndarray.__pow__  # type: ignore[assignment]
    __imatmul__ = np.ndarray.__matmul__  # type: ignore[assignment]


def value_of(array: Any) -> Any:
    """Return a view of an array that nothing computes into in place; other things as they are."""
    return array.view(Value) if type(array) is np.ndarray else array
