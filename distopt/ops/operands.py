"""The operands of every operation: read as arrays; and its result, which is no wider than they are.

The functions here make an operation out of a function of NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from distopt.arrays import is_floating, to_array, to_dtype
from distopt.variables.array_like import ArrayLike, Traced, read
from distopt.variables.indexed_slices import IndexedSlices

Operation = Callable[..., Any]


def convert_to_tensor(x: Any, dtype: npt.DTypeLike | None = None) -> Any:
    """Return ``x`` as a dense array (traced under a tape), which later changes of a variable do not reach."""
    if isinstance(x, IndexedSlices):
        x = x.to_dense()
    elif isinstance(x, ArrayLike):
        value = x.as_operand()
        x = value if isinstance(value, Traced) else x.numpy()
    elif not hasattr(x, "dtype"):
        x = to_array(read(x), "an operand of distopt.ops")
    return x if dtype is None or x.dtype == to_dtype(dtype) else x.astype(to_dtype(dtype))


def cast(x: Any, dtype: npt.DTypeLike) -> Any:
    """Return ``x`` in another dtype; IndexedSlices stay IndexedSlices."""
    return x.astype(to_dtype(dtype)) if isinstance(x, IndexedSlices) else convert_to_tensor(x, dtype)


def shape(x: Any) -> tuple[int, ...]:
    """Return the shape, a tuple of integers."""
    return tuple(x.shape) if hasattr(x, "shape") else np.shape(x)


def each(make: Callable[[Operation], Operation], *functions: Operation) -> list[Operation]:
    """Return the operations that ``make`` makes of functions of NumPy."""
    return [make(function) for function in functions]


def operand(x: Any) -> Any:
    """Return ``x`` as a function of NumPy takes it."""
    return x if isinstance(x, ArrayLike) else convert_to_tensor(x)


def fitted(result: Any, *operands: Any) -> Any:
    """Return a result, no wider than the floating arrays among its operands."""
    if not _floating_dtypes(result):
        return result
    arrays = [x for x in operands if not isinstance(x, (int, float))]
    # A float64 of NumPy is a number beside an array, and what was computed in float64 where it is alone.
    dtypes = [dtype for x in arrays for dtype in _floating_dtypes(x)] or [
        d for x in operands for d in _floating_dtypes(x)
    ]
    widest = np.result_type(*dtypes or [np.dtype(np.float32)])
    return result.astype(widest) if result.dtype.itemsize > widest.itemsize else result


def of_one(function: Operation) -> Operation:
    """Return an operation on one operand; other arguments are handed on."""

    def operation(x: Any, *args: Any, **kwargs: Any) -> Any:
        result = function(operand(x), *args, **kwargs)
        return result if "dtype" in kwargs else fitted(result, x, *args, *kwargs.values())

    return _named(operation, function)


def of_several(function: Operation) -> Operation:
    """Return an operation on a sequence of operands, which it takes as one argument."""

    def operation(xs: Any, *args: Any, **kwargs: Any) -> Any:
        operands = [operand(x) for x in xs]
        return fitted(function(operands, *args, **kwargs), *(xs if isinstance(xs, (list, tuple)) else [xs]))

    return _named(operation, function)


def of_two(function: Operation) -> Operation:
    """Return an operation on two operands; a number of Python takes the dtype of the floating array beside it."""
    return _named(lambda x1, x2: fitted(function(_beside(x1, x2), _beside(x2, x1)), x1, x2), function)


def shaping(function: Operation) -> Operation:
    """Return an operation on a tensor of its own: NumPy returns a view, and a view of a variable changes with it."""
    return _named(lambda x, *args, **kwargs: function(convert_to_tensor(x), *args, **kwargs), function)


def with_zero_at_zero(function: Operation) -> Operation:
    """Return an operation that gives IndexedSlices for IndexedSlices: the function is 0 at 0."""

    def operation(x: Any) -> Any:
        if isinstance(x, IndexedSlices):
            rows = x.deduplicate()  # f(a + b) is not f(a) + f(b)
            return IndexedSlices(fitted(function(rows.values), rows.values), rows.indices, rows.dense_shape)
        return fitted(function(operand(x)), x)

    return _named(operation, function)


def of_results(function: Operation) -> Operation:
    """Return an operation on one operand whose results are several arrays."""

    def operation(x: Any, *args: Any, **kwargs: Any) -> Any:
        return tuple(fitted(result, x) for result in function(operand(x), *args, **kwargs))

    return _named(operation, function)


def _named(operation: Operation, function: Operation) -> Operation:
    operation.__name__ = operation.__qualname__ = function.__name__
    operation.__doc__ = f"``numpy.{function.__name__}`` of Variables, arrays, traced values and IndexedSlices."
    return operation


def _floating_dtypes(x: Any) -> list[np.dtype[Any]]:
    """Return the dtype of an array in a list, and an empty list for what is no floating array."""
    dtype = getattr(x, "dtype", None)
    return [dtype] if isinstance(dtype, np.dtype) and is_floating(dtype) else []


def _beside(x: Any, other: Any) -> Any:
    """Return ``x`` as an operand; beside a floating array a number of Python takes the array's dtype."""
    x_is_weak, other_is_weak = (isinstance(value, (int, float)) for value in (x, other))
    if not x_is_weak or other_is_weak:
        return operand(x)
    dtype = operand(other).dtype
    return cast(x, dtype) if is_floating(dtype) else x
