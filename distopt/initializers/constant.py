"""The base of all initializers, and those that draw no random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from distopt.arrays import Array, to_dtype
from distopt.errors import InvalidArgumentError


class Initializer:
    """A function of a shape and a dtype that returns initial values.

    Example:
        >>> class Halves(Initializer):
        ...     def __call__(self, shape, dtype=None):
        ...         return np.full(shape, 0.5, dtype)
        >>> from distopt import Variable
        >>> Variable(Halves(), shape=(2,), dtype="float32").numpy()
        array([0.5, 0.5], dtype=float32)

    Source: Keras 3, ``keras.initializers.Initializer``.
    """

    def __call__(self, shape: Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
        """Return the initial values."""
        raise NotImplementedError(f"{type(self).__name__} is an initializer without __call__(shape, dtype).")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs to make this initializer again."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make an initializer from what ``get_config`` returned."""
        return cls(**config)

    def clone(self) -> Self:
        """Return another initializer with the same arguments."""
        return type(self).from_config(self.get_config())


def dtype_of(dtype: npt.DTypeLike | None) -> np.dtype[Any]:
    """Return the dtype of initial values: float32 by default."""
    return to_dtype("float32" if dtype is None else dtype)


class Zeros(Initializer):
    """Zeros."""

    def __call__(self, shape: Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
        """Return zeros."""
        return np.zeros(shape, dtype_of(dtype))


class Ones(Initializer):
    """Ones."""

    def __call__(self, shape: Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
        """Return ones."""
        return np.ones(shape, dtype_of(dtype))


class Constant(Initializer):
    """One value everywhere, or values that are broadcast.

    Args:
        value: the value.
        dtype: the dtype where a call gives none, as tf_keras has it.
    """

    def __init__(self, value: Any = 0.0, dtype: npt.DTypeLike | None = None) -> None:
        self.value, self._dtype = value, dtype

    def __call__(self, shape: Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
        """Return the value, in this shape."""
        return np.full(shape, np.asarray(self.value), dtype_of(self._dtype if dtype is None else dtype))

    def get_config(self) -> dict[str, Any]:
        """Return the value."""
        return {"value": self.value.tolist() if isinstance(self.value, np.ndarray) else self.value}


class Identity(Initializer):
    """The identity matrix, times a number.

    Args:
        gain: the number.
    """

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def __call__(self, shape: Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
        """Return the matrix."""
        if len(shape) != 2:
            raise InvalidArgumentError(f"Identity received the shape {tuple(shape)}: expected that of a matrix")
        return self.gain * np.eye(*shape, dtype=dtype_of(dtype))

    def get_config(self) -> dict[str, Any]:
        """Return the argument."""
        return {"gain": self.gain}
