"""Constraints: functions that bring a variable back to allowed values after each update."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from numpy.exceptions import AxisError

from distopt.arguments import as_float
from distopt.errors import InvalidArgumentError
from distopt.registry import describe, get_object, make

__all__ = [
    "Constraint",
    "MaxNorm",
    "MinMaxNorm",
    "NonNeg",
    "RadialConstraint",
    "UnitNorm",
    "deserialize",
    "get",
    "max_norm",
    "min_max_norm",
    "non_neg",
    "radial_constraint",
    "serialize",
    "unit_norm",
]


def __dir__() -> list[str]:
    return __all__


_EPSILON = 1e-7

Axis = int | tuple[int, ...]


class Constraint:
    """A function from the value of a variable to the allowed value that replaces it: same shape, same dtype.

    Any such callable can be the ``constraint`` of a Variable; an object of this class can also be saved.

    Example:
        >>> class AtMostOne(Constraint):
        ...     def __call__(self, value):
        ...         return np.minimum(value, 1)
        >>> AtMostOne()(np.array([0.5, 2.0]))
        array([0.5, 1. ])

    Source: Keras 3, ``keras.constraints.Constraint``.
    """

    elementwise: ClassVar[bool] = False
    """True where each element is replaced on its own, so that replicas that share a variable can each do a part."""

    def __call__(self, value: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the allowed value in place of ``value``, which is not mutated."""
        raise NotImplementedError(f"{type(self).__name__} is a constraint without __call__(value).")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs to make this constraint again."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a constraint from what ``get_config`` returned."""
        return cls(**config)


class NonNeg(Constraint):
    """Set negative elements to zero: ``max(w, 0)``.

    Example:
        >>> NonNeg()(np.array([-1.0, 0.5]))
        array([0. , 0.5])

    Source: Keras 3, ``keras.constraints.NonNeg``.
    """

    elementwise = True

    def __call__(self, value: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return ``max(value, 0)``."""
        array = np.asarray(value)
        result: npt.NDArray[Any] = np.maximum(array, np.zeros((), array.dtype))
        return result


class MaxNorm(Constraint):
    """Shrink vectors that are longer than ``max_value``: ``w * min(|w|, max_value) / (1e-7 + |w|)``.

    Args:
        max_value: the greatest L2 norm, a number >= 0.
        axis: the axis or axes that a vector runs along; 0 for the weights that enter each unit of a
            dense layer's (inputs, units) matrix.

    Raises:
        InvalidArgumentError: ``max_value`` is not a number >= 0; called: the value has no such axis.

    Example:
        >>> MaxNorm(1.0)(np.array([[3.0, 0.3], [4.0, 0.4]])).round(4)
        array([[0.6, 0.3],
               [0.8, 0.4]])

    Source: Srivastava et al., "Dropout" (2014), section 5.1; formula of Keras 3's ``MaxNorm``.
    """

    def __init__(self, max_value: float = 2, axis: Axis = 0) -> None:
        self.max_value = _not_negative("MaxNorm", "max_value", max_value)
        self.axis = axis

    def __call__(self, value: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return ``value`` with no vector longer than ``max_value``."""
        array, norms = _with_norms(self, value, self.axis)
        return _scaled(value, array * (np.minimum(norms, self.max_value) / (_EPSILON + norms)))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of this constraint."""
        return {"max_value": self.max_value, "axis": self.axis}


class MinMaxNorm(Constraint):
    """Bring the lengths of vectors into a range: ``w * desired / (1e-7 + |w|)``.

    ``desired = rate * clip(|w|, min_value, max_value) + (1 - rate) * |w|``; a vector of zeros stays one.

    Args:
        min_value: the smallest L2 norm, a number >= 0.
        max_value: the greatest L2 norm, not below ``min_value``.
        rate: the part of the way to go at each step, from 0 to 1.
        axis: the axis or axes that a vector runs along.

    Raises:
        InvalidArgumentError: an argument out of its range; called: the value has no such axis.

    Example:
        >>> MinMaxNorm(1.0, 2.0)(np.array([[3.0, 0.3], [4.0, 0.4]])).round(4)
        array([[1.2, 0.6],
               [1.6, 0.8]])

    Source: Keras 3, ``keras.constraints.MinMaxNorm``.
    """

    def __init__(self, min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: Axis = 0) -> None:
        self.min_value = _not_negative("MinMaxNorm", "min_value", min_value)
        self.max_value = _not_negative("MinMaxNorm", "max_value", max_value)
        self.rate = _not_negative("MinMaxNorm", "rate", rate)
        self.axis = axis
        if self.min_value > self.max_value:
            raise InvalidArgumentError(
                f"MinMaxNorm: min_value must not exceed max_value, received {min_value!r} and {max_value!r}."
            )
        if self.rate > 1:
            raise InvalidArgumentError(f"MinMaxNorm: rate must be from 0 to 1, received {rate!r}.")

    def __call__(self, value: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return ``value`` with the length of each vector moved towards the range."""
        array, norms = _with_norms(self, value, self.axis)
        desired = self.rate * np.clip(norms, self.min_value, self.max_value) + (1 - self.rate) * norms
        return _scaled(value, array * (desired / (_EPSILON + norms)))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of this constraint."""
        return {
            "min_value": self.min_value,
            "max_value": self.max_value,
            "rate": self.rate,
            "axis": self.axis,
        }


class UnitNorm(Constraint):
    """Give each vector the length 1: ``w / (1e-7 + |w|)``; a vector of zeros stays one.

    Args:
        axis: the axis or axes that a vector runs along.

    Raises:
        InvalidArgumentError: called: the value has no such axis.

    Example:
        >>> UnitNorm()(np.array([3.0, 4.0])).round(4)
        array([0.6, 0.8])

    Source: Keras 3, ``keras.constraints.UnitNorm``.
    """

    def __init__(self, axis: Axis = 0) -> None:
        self.axis = axis

    def __call__(self, value: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return ``value`` with each vector scaled to length 1."""
        array, norms = _with_norms(self, value, self.axis)
        return _scaled(value, array / (_EPSILON + norms))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of this constraint."""
        return {"axis": self.axis}


class RadialConstraint(Constraint):
    """Give the weights of a convolution's kernel that lie on one square ring around its centre the same value.

    Each ring of a kernel gets the value of its lower right corner; in kernels of even size the innermost ring gets the
    value of its upper left corner.

    Raises:
        InvalidArgumentError: called: the value's shape is not (size, size, inputs, outputs).

    Example:
        >>> kernel = np.arange(16.0).reshape(4, 4, 1, 1)
        >>> RadialConstraint()(kernel)[:, :, 0, 0]
        array([[15., 15., 15., 15.],
               [15.,  5.,  5., 15.],
               [15.,  5.,  5., 15.],
               [15., 15., 15., 15.]])

    Source: ``tf_keras.constraints.RadialConstraint`` (Keras 3 has none). By mistake, in kernels of odd size tf_keras
    takes each ring's value from the ring inside it, so a second call changes the kernel again.
    """

    def __call__(self, value: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return ``value`` with one value for each ring of each kernel."""
        array = np.asarray(value)
        if array.ndim != 4 or array.shape[0] != array.shape[1]:
            raise InvalidArgumentError(
                f"RadialConstraint received a value of shape {array.shape}: expected (size, size, inputs, outputs), "
                "the weights of a convolution with square kernels."
            )
        size = array.shape[0]
        distance = np.abs(2 * np.arange(size) - (size - 1)) // 2
        corners = np.arange(size // 2, size)
        if size % 2 == 0:
            corners[:1] -= 1
        taken = corners[np.maximum.outer(distance, distance)]
        result: npt.NDArray[Any] = array[taken, taken]
        return result


def _with_norms(
    owner: Constraint, value: npt.ArrayLike, axis: Axis | list[int]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the value, as float32 if it has 16 bits (squares overflow there), and the norms along ``axis``."""
    array = np.asarray(value)
    if array.dtype.itemsize < 4:
        array = array.astype(np.float32)
    axes = tuple(axis) if isinstance(axis, list) else axis  # what JSON makes of a tuple
    try:
        return array, np.sqrt(np.sum(np.square(array), axis=axes, keepdims=True))
    except AxisError:
        raise InvalidArgumentError(
            f"{type(owner).__name__}(axis={axis!r}): a value of shape {array.shape} has no such axis."
        ) from None


def _scaled(value: npt.ArrayLike, result: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return result.astype(np.asarray(value).dtype, copy=False)


def _not_negative(owner: str, argument: str, value: Any) -> float:
    number = as_float(value)
    if not (number >= 0 and math.isfinite(number)):
        raise InvalidArgumentError(f"{owner}: {argument} must be a finite number >= 0, received {value!r}.")
    return number


def serialize(constraint: Constraint) -> dict[str, Any]:
    """Return a constraint as a dictionary that ``deserialize`` reads."""
    return describe(constraint, __name__, Constraint)


def deserialize(config: Mapping[str, Any], custom_objects: Mapping[str, type] | None = None) -> Constraint:
    """Make the constraint that ``serialize`` described.

    Raises:
        InvalidArgumentError: no such dictionary; an unknown class, with the nearest match.
    """
    made: Constraint = make("a constraint", config, __name__, Constraint, custom_objects)
    return made


def get(identifier: Any) -> Any:
    """Return a constraint: by its name, by its dictionary, of its class, or the function given; None for None.

    Example:
        >>> get("non_neg")(np.array([-1.0, 1.0]))
        array([0., 1.])

    Source: Keras 3, ``keras.constraints.get``.
    """
    return get_object("a constraint", identifier, __name__, Constraint)


max_norm, min_max_norm, non_neg, unit_norm, radial_constraint = MaxNorm, MinMaxNorm, NonNeg, UnitNorm, RadialConstraint
