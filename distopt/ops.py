"""NumPy under the names of ``keras.ops``, so that optimizers written for Keras port by their imports.

Every function takes Variables, arrays, traced values, numbers and IndexedSlices. A floating result is as wide as the
widest floating array among the operands, and float32 where there is none: numbers and integers widen nothing.
Scaling by a number, ``negative``, ``cast`` and functions with f(0) = 0 return IndexedSlices for IndexedSlices; all
other functions make them dense.

Example:
    >>> from distopt import Variable
    >>> m = Variable([1.0, 2.0])
    >>> multiply(m, cast(0.5, m.dtype))
    array([0.5, 1. ], dtype=float32)
    >>> square(IndexedSlices([1.0, 2.0], [3, 3], (4,)))
    IndexedSlices(values=array([9.], dtype=float32), indices=array([3]), dense_shape=(4,))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distopt.arrays import Array, is_floating, to_array, to_dtype
from distopt.variables.array_like import ArrayLike, Traced, read, stop_gradient
from distopt.variables.indexed_slices import IndexedSlices

__all__ = ["cast", "cond", "convert_to_tensor", "full", "gather", "ones", "shape", "stop_gradient", "zeros"]

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


def zeros(shape: int | Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
    """Return an array of zeros, float32 by default."""
    return np.zeros(shape, to_dtype(dtype or "float32"))


def ones(shape: int | Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
    """Return an array of ones, float32 by default."""
    return np.ones(shape, to_dtype(dtype or "float32"))


def full(shape: int | Sequence[int], fill_value: float, dtype: npt.DTypeLike | None = None) -> Array:
    """Return an array filled with one number, float32 by default."""
    return np.full(shape, fill_value, to_dtype(dtype or "float32"))


def arange(*limits: Any, dtype: npt.DTypeLike | None = None) -> Any:
    """Return ``numpy.arange``: integers for integers, else float32 by default."""
    return _fitted(np.arange(*limits), *limits) if dtype is None else np.arange(*limits, dtype=to_dtype(dtype))


def gather(params: Any, indices: Any, axis: int = 0) -> Any:
    """Return elements of ``params`` along ``axis``; the gradient of a variable's rows is IndexedSlices."""
    return np.take(convert_to_tensor(params), indices, axis=axis)


def cond(pred: Any, true_fn: Callable[[], Any], false_fn: Callable[[], Any]) -> Any:
    """Return ``true_fn()`` if ``pred`` holds, else ``false_fn()``."""
    return true_fn() if pred else false_fn()


def _named(operation: Operation, function: Operation) -> Operation:
    operation.__name__ = operation.__qualname__ = function.__name__
    operation.__doc__ = f"``numpy.{function.__name__}`` of Variables, arrays, traced values and IndexedSlices."
    return operation


def _each(make: Callable[[Operation], Operation], *functions: Operation) -> list[Operation]:
    return [make(function) for function in functions]


def _operand(x: Any) -> Any:
    return x if isinstance(x, ArrayLike) else convert_to_tensor(x)


def _fitted(result: Any, *operands: Any) -> Any:
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


def _floating_dtypes(x: Any) -> list[np.dtype[Any]]:
    """Return the dtype of an array in a list, and an empty list for what is no floating array."""
    dtype = getattr(x, "dtype", None)
    return [dtype] if isinstance(dtype, np.dtype) and is_floating(dtype) else []


def _of_one(function: Operation) -> Operation:
    def operation(x: Any, *args: Any, **kwargs: Any) -> Any:
        result = function(_operand(x), *args, **kwargs)
        return result if "dtype" in kwargs else _fitted(result, x, *args, *kwargs.values())

    return _named(operation, function)


def _of_several(function: Operation) -> Operation:
    """Return an operation on a sequence of operands, which it takes as one argument."""

    def operation(xs: Any, *args: Any, **kwargs: Any) -> Any:
        operands = [_operand(x) for x in xs]
        return _fitted(function(operands, *args, **kwargs), *(xs if isinstance(xs, (list, tuple)) else [xs]))

    return _named(operation, function)


def _shaping(function: Operation) -> Operation:
    """Return an operation on a tensor of its own: NumPy returns a view, and a view of a variable changes with it."""
    return _named(lambda x, *args, **kwargs: function(convert_to_tensor(x), *args, **kwargs), function)


def _with_zero_at_zero(function: Operation) -> Operation:
    def operation(x: Any) -> Any:
        if isinstance(x, IndexedSlices):
            rows = x.deduplicate()  # f(a + b) is not f(a) + f(b)
            return IndexedSlices(_fitted(function(rows.values), rows.values), rows.indices, rows.dense_shape)
        return _fitted(function(_operand(x)), x)

    return _named(operation, function)


def _of_two(function: Operation) -> Operation:
    return _named(lambda x1, x2: _fitted(function(_beside(x1, x2), _beside(x2, x1)), x1, x2), function)


def _beside(x: Any, other: Any) -> Any:
    """Return ``x`` as an operand; beside a floating array a number of Python takes the array's dtype."""
    x_is_weak, other_is_weak = (isinstance(value, (int, float)) for value in (x, other))
    if not x_is_weak or other_is_weak:
        return _operand(x)
    dtype = _operand(other).dtype
    return cast(x, dtype) if is_floating(dtype) else x


def _is_number(x: Any) -> bool:
    return not isinstance(x, IndexedSlices) and shape(x) == ()


def multiply(x1: Any, x2: Any) -> Any:
    """Return ``x1 * x2``; IndexedSlices times a number stay IndexedSlices."""
    if isinstance(x1, IndexedSlices) and _is_number(x2):
        return x1 * x2
    if isinstance(x2, IndexedSlices) and _is_number(x1):
        return x2 * x1
    return _multiply(x1, x2)


def divide(x1: Any, x2: Any) -> Any:
    """Return ``x1 / x2``; IndexedSlices over a number stay IndexedSlices."""
    return x1 / x2 if isinstance(x1, IndexedSlices) and _is_number(x2) else _divide(x1, x2)


def negative(x: Any) -> Any:
    """Return ``-x``; IndexedSlices stay IndexedSlices."""
    return -x if isinstance(x, IndexedSlices) else np.negative(_operand(x))


def rsqrt(x: Any) -> Any:
    """Return ``1 / √x``."""
    return _fitted(1 / np.sqrt(_operand(x)), x)


def reciprocal(x: Any) -> Any:
    """Return ``1 / x``, also of integers."""
    return _fitted(1 / _operand(x), x)


def where(condition: Any, *choices: Any) -> Any:
    """Return ``numpy.where``: elements of the first choice where the condition holds, else of the second."""
    return _fitted(np.where(_operand(condition), *map(_operand, choices)), *choices)


def einsum(subscripts: str, *operands: Any, **kwargs: Any) -> Any:
    """Return ``numpy.einsum``: the products that the subscripts choose, summed."""
    return _fitted(np.einsum(subscripts, *map(_operand, operands), **kwargs), *operands)


_multiply, _divide = _each(_of_two, np.multiply, np.divide)
true_divide = divide

abs, absolute, sign, square = _each(_with_zero_at_zero, np.abs, np.abs, np.sign, np.square)
sqrt, tanh, floor = _each(_with_zero_at_zero, np.sqrt, np.tanh, np.floor)
exp, log, log1p, norm, take = _each(_of_one, np.exp, np.log, np.log1p, np.linalg.norm, np.take)
isfinite, isnan, logical_not = _each(_of_one, np.isfinite, np.isnan, np.logical_not)
all, any, argmax, clip, cumsum = _each(_of_one, np.all, np.any, np.argmax, np.clip, np.cumsum)
max, mean, min, prod = _each(_of_one, np.max, np.mean, np.min, np.prod)
std, sum, var = _each(_of_one, np.std, np.sum, np.var)
full_like, ones_like, zeros_like = _each(_of_one, np.full_like, np.ones_like, np.zeros_like)
broadcast_to, expand_dims, ravel = _each(_shaping, np.broadcast_to, np.expand_dims, np.ravel)
reshape, squeeze, transpose = _each(_shaping, np.reshape, np.squeeze, np.transpose)
add, subtract, power, matmul, dot = _each(_of_two, np.add, np.subtract, np.power, np.matmul, np.dot)
maximum, minimum, mod, floor_divide = _each(_of_two, np.maximum, np.minimum, np.mod, np.floor_divide)
equal, not_equal = _each(_of_two, np.equal, np.not_equal)
greater, greater_equal, less, less_equal = _each(_of_two, np.greater, np.greater_equal, np.less, np.less_equal)
logical_and, logical_or = _each(_of_two, np.logical_and, np.logical_or)
concatenate, stack = _each(_of_several, np.concatenate, np.stack)
pow = power
