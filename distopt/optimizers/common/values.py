"""Values as TensorFlow and JAX know them: what is computed in place is a new one."""

from __future__ import annotations

import numpy as np

from distopt.arrays import Array
from distopt.slabs.fitting import Gradient
from distopt.variables.indexed_slices import IndexedSlices


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


def own_value(gradient: Gradient) -> Gradient:
    """Return a copy of a gradient for a method of the user's: the slab is written again in the next step."""
    if isinstance(gradient, IndexedSlices):
        return gradient.with_values(gradient.values.copy().view(Value))
    return value_of(gradient.copy())


def value_of(array: Array) -> Array:
    """Return a view of an array that nothing computes into in place."""
    return array.view(Value) if type(array) is np.ndarray else array
