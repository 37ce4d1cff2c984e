"""Lets a variable be read as an array, by the attributes, methods and protocols of ndarray that do not write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from distopt.arrays import Array
from distopt.errors import InvalidArgumentError
from distopt.memory.storage import Storage


class Traced:
    """The marker of a value that an open tape follows; the full class needs autograd (distopt/variables/tracing.py)."""

    __slots__ = ()

    def numpy(self) -> Array:
        """Return the plain value."""
        raise NotImplementedError


def _reads(name: str) -> Callable[..., Any]:
    """Return a method that calls the ndarray method of this name, which only reads, on the variable's value."""

    def method(self: ArrayLike, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.as_operand(), name)(*args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"``numpy.ndarray.{name}`` of the value."
    return method


class ArrayLike(np.lib.mixins.NDArrayOperatorsMixin):
    """A named array that stands for its value in every expression of NumPy, and can't be written by one."""

    __hash__ = object.__hash__

    name: str
    storage: Storage

    def numpy(self) -> Array:
        """Return a copy of the plain value."""
        return self._own().copy()

    def _own(self) -> Array:
        """Return the plain value, read-only."""
        raise NotImplementedError

    def as_operand(self) -> Any:
        """Return the value as an expression sees it: live memory, or a traced value where an open tape follows it."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the value."""
        return self.storage.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of the value."""
        return self.storage.array.dtype

    @property
    def ndim(self) -> int:
        """Return the number of dimensions."""
        return self.storage.array.ndim

    @property
    def size(self) -> int:
        """Return the number of elements."""
        return self.storage.array.size

    @property
    def nbytes(self) -> int:
        """Return the number of bytes of the value."""
        return self.storage.array.nbytes

    @property
    def itemsize(self) -> int:
        """Return the number of bytes of one element."""
        return self.storage.array.itemsize

    @property
    def T(self) -> Any:  # noqa: N802 (ndarray's name)
        """Return the transposed value."""
        return self.as_operand().T

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        for out in kwargs.get("out", ()):
            _refuse_out(out)
        return getattr(ufunc, method)(*read(inputs), **read(kwargs))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        _refuse_out(kwargs.get("out"))
        return func(*read(args), **read(kwargs))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        # A copy unless a view is asked for: what was read before a step must not change with it.
        return np.array(self.as_operand(), dtype, copy=True if copy is None else copy)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise _in_place(self)

    def __getitem__(self, index: Any) -> Any:
        return snapshot(self.as_operand()[read(index)])

    def __iter__(self) -> Iterator[Any]:
        return iter(self.as_operand())

    def __len__(self) -> int:
        return len(self.storage.array)

    def __float__(self) -> float:
        return float(self._own())

    def __int__(self) -> int:
        return int(self._own())

    def __index__(self) -> int:
        return self._own().__index__()

    def __bool__(self) -> bool:
        return bool(self._own())

    def __format__(self, spec: str) -> str:
        return format(self._own()[()], spec) if spec else str(self)

    def __repr__(self) -> str:
        text = f"<Variable {self.name!r} shape={self.shape} dtype={self.dtype.name}"
        return f"{text} value={self.storage.array}>" if self.size <= 8 and self.ndim <= 1 else f"{text}>"

    all, any, argmax, argmin, argsort = map(_reads, ("all", "any", "argmax", "argmin", "argsort"))
    astype, clip, conj, copy, cumprod = map(_reads, ("astype", "clip", "conj", "copy", "cumprod"))
    cumsum, diagonal, dot, flatten, item = map(_reads, ("cumsum", "diagonal", "dot", "flatten", "item"))
    max, mean, min, nonzero, prod, ravel = map(_reads, ("max", "mean", "min", "nonzero", "prod", "ravel"))
    repeat, reshape, round, squeeze, std = map(_reads, ("repeat", "reshape", "round", "squeeze", "std"))
    sum, swapaxes, take, tobytes, tolist = map(_reads, ("sum", "swapaxes", "take", "tobytes", "tolist"))
    trace, transpose, var = map(_reads, ("trace", "transpose", "var"))


def snapshot(value: Any) -> Any:
    """Return ``value``; as a copy if it may be a view of a variable's memory, which the next step will change."""
    return value.copy() if type(value) is np.ndarray and value.base is not None else value


def read(value: Any) -> Any:
    """Return ``value`` with every Variable in it, also in lists, tuples and dicts, replaced by the variable's value."""
    if isinstance(value, ArrayLike):
        return value.as_operand()
    if type(value) in (list, tuple):
        return type(value)(map(read, value))
    if type(value) is dict:
        return {key: read(item) for key, item in value.items()}
    return value


def stop_gradient(x: Any) -> Any:
    """Return the plain value of ``x``, which is a constant for every tape.

    Args:
        x: Variable, traced value, or anything else, which is returned as it is.

    Returns:
        A new array for a variable or a traced value.

    Example:
        >>> from distopt import GradientTape, Variable
        >>> w = Variable(3.0)
        >>> with GradientTape() as tape:
        ...     loss = w * stop_gradient(w)
        >>> float(tape.gradient(loss, w))
        3.0

    Source: tf.stop_gradient.
    """
    return x.numpy() if isinstance(x, (ArrayLike, Traced)) else x


def _refuse_out(out: Any) -> None:
    if isinstance(out, ArrayLike):
        raise _in_place(out)


def _in_place(variable: ArrayLike) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"Variable {variable.name!r} was to be written in place (+=, out= or [...] =), which no tape and no "
        "optimizer would notice. Say variable.assign(x), variable.assign_add(x) or variable.assign_sub(x)."
    )
