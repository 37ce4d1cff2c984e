"""TensorFlow's functions that make and reshape arrays, with its arguments and meanings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distopt import ops
from distopt.arrays import Array, to_dtype
from distopt.variables.array_like import ArrayLike, Traced
from distopt.variables.indexed_slices import IndexedSlices

DTypeLike = npt.DTypeLike


def convert_to_tensor(value: Any, dtype: DTypeLike | None = None, dtype_hint: DTypeLike | None = None) -> Any:
    """Return a dense array: int32 of integers of Python, float32 of its other numbers, else in the value's dtype."""
    if isinstance(value, (IndexedSlices, ArrayLike, Traced, np.ndarray, np.generic)):
        return ops.convert_to_tensor(value, dtype)
    if any(isinstance(item, (ArrayLike, Traced)) for item in (value if isinstance(value, (list, tuple)) else ())):
        return ops.cast(np.stack([ops.convert_to_tensor(item) for item in value]), dtype or value[0].dtype)
    array = np.asarray(value)
    if dtype is None and not any(isinstance(item, (np.ndarray, np.generic)) for item in _items(value)):
        dtype = {"f": "float32", "i": "int32"}.get(array.dtype.kind)
    return array if dtype is None else array.astype(to_dtype(dtype))


def plain(value: Any) -> Array:
    """Return the plain value as an array, which no tape follows; dtypes as of `convert_to_tensor`."""
    return ops.convert_to_numpy(convert_to_tensor(value))


def constant(value: Any, dtype: DTypeLike | None = None, shape: Sequence[int] | None = None) -> Any:
    """Return an array of a value, repeated to fill ``shape``."""
    array = convert_to_tensor(value, dtype)
    if shape is None:
        return array
    return np.full(tuple(shape), array) if array.size == 1 else np.reshape(array, tuple(shape))


def cast(x: Any, dtype: DTypeLike) -> Any:
    """Return ``x`` in another dtype: fractions are cut off; IndexedSlices stay IndexedSlices."""
    return ops.cast(x if isinstance(x, IndexedSlices) else convert_to_tensor(x), dtype)


def saturate_cast(value: Any, dtype: DTypeLike) -> Any:
    """Return ``value`` in another dtype, limited to the dtype's range."""
    limits = np.iinfo(to_dtype(dtype)) if to_dtype(dtype).kind in "iu" else np.finfo(to_dtype(dtype))
    return ops.cast(np.clip(convert_to_tensor(value), limits.min, limits.max), dtype)


def identity(input: Any) -> Any:
    """Return a copy of the value, which later assignments do not reach."""
    return input if isinstance(input, IndexedSlices) else convert_to_tensor(input).copy()


def is_tensor(x: Any) -> bool:
    """Return whether ``x`` is an array, a variable, a traced value or IndexedSlices."""
    return isinstance(x, IndexedSlices) or ops.is_tensor(x)


def get_static_value(tensor: Any, partial: bool = False) -> Any:
    """Return the plain value; text is one already."""
    return tensor if isinstance(tensor, str | bytes) else ops.convert_to_numpy(tensor)


def zeros(shape: Any, dtype: DTypeLike = "float32") -> Array:
    """Return zeros."""
    return np.zeros(_shape(shape), to_dtype(dtype))


def ones(shape: Any, dtype: DTypeLike = "float32") -> Array:
    """Return ones."""
    return np.ones(_shape(shape), to_dtype(dtype))


def zeros_like(input: Any, dtype: DTypeLike | None = None) -> Array:
    """Return zeros of a value's shape and dtype."""
    return np.zeros(ops.shape(input), _dtype_of(input, dtype))


def ones_like(input: Any, dtype: DTypeLike | None = None) -> Array:
    """Return ones of a value's shape and dtype."""
    return np.ones(ops.shape(input), _dtype_of(input, dtype))


def fill(dims: Any, value: Any) -> Any:
    """Return an array of this shape that is filled with one value, in the value's dtype."""
    return np.full(_shape(dims), convert_to_tensor(value))


def eye(num_rows: int, num_columns: int | None = None, batch_shape: Any = None, dtype: DTypeLike = "float32") -> Array:
    """Return matrices with ones on the diagonal."""
    matrix = np.eye(int(num_rows), None if num_columns is None else int(num_columns), dtype=to_dtype(dtype))
    return matrix if batch_shape is None else np.broadcast_to(matrix, (*_shape(batch_shape), *matrix.shape)).copy()


def range(start: Any, limit: Any = None, delta: Any = 1, dtype: DTypeLike | None = None) -> Any:
    """Return numbers at equal distances: int32 of integers, else float32 by default."""
    limits = [convert_to_tensor(each) for each in ((0, start) if limit is None else (start, limit))]
    step = convert_to_tensor(delta)
    dtypes = [each.dtype for each in (*limits, step)]
    floating = [each for each in dtypes if each.kind == "f"]  # int32 beside float32 would make float64
    return np.arange(limits[0], limits[1], step).astype(to_dtype(dtype or np.result_type(*floating or dtypes)))


def linspace(start: Any, stop: Any, num: int, axis: int = 0) -> Any:
    """Return ``num`` numbers at equal distances, both ends among them."""
    begin = convert_to_tensor(start)
    return np.linspace(begin, convert_to_tensor(stop), int(num), axis=axis).astype(begin.dtype)


def shape(input: Any, out_type: DTypeLike = "int32") -> Array:
    """Return the shape as an array of integers."""
    return np.array(ops.shape(input), to_dtype(out_type))


def size(input: Any, out_type: DTypeLike = "int32") -> Any:
    """Return the number of elements."""
    return to_dtype(out_type).type(ops.size(input))


def rank(input: Any) -> Any:
    """Return the number of axes."""
    return np.int32(len(ops.shape(input)))


def reshape(tensor: Any, shape: Any) -> Any:
    """Return a value in another shape."""
    return ops.reshape(convert_to_tensor(tensor), _shape(shape))


def ensure_shape(x: Any, shape: Any) -> Any:
    """Return a value of which the shape is known."""
    return convert_to_tensor(x)


def transpose(a: Any, perm: Any = None, conjugate: bool = False) -> Any:
    """Return a value with its axes in another order; reversed by default."""
    moved = ops.transpose(convert_to_tensor(a), None if perm is None else _shape(perm))
    return np.conj(moved) if conjugate else moved


def expand_dims(input: Any, axis: int) -> Any:
    """Return a value with one more axis, of length 1."""
    return ops.expand_dims(convert_to_tensor(input), int(axis))


def squeeze(input: Any, axis: Any = None) -> Any:
    """Return a value without its axes of length 1, or without some of them."""
    chosen = tuple(axis) if isinstance(axis, list) else axis
    return ops.squeeze(convert_to_tensor(input), chosen or None)


def stack(values: Any, axis: int = 0) -> Any:
    """Return values put side by side along a new axis."""
    return np.stack([convert_to_tensor(value) for value in values], axis)


def unstack(value: Any, num: int | None = None, axis: int = 0) -> list[Any]:
    """Return the parts of a value along an axis."""
    array = convert_to_tensor(value)
    return [np.take(array, k, axis) for k in np.arange(array.shape[axis])]


def concat(values: Any, axis: int) -> Any:
    """Return values put end to end along an axis."""
    return np.concatenate([convert_to_tensor(value) for value in values], int(axis))


def split(value: Any, num_or_size_splits: Any, axis: int = 0, num: int | None = None) -> list[Any]:
    """Return a value cut into equal parts, or into parts of these lengths; one of them may be -1: the rest."""
    array = convert_to_tensor(value)
    if np.ndim(num_or_size_splits) == 0:
        return list(np.split(array, int(num_or_size_splits), axis))
    lengths = np.array(num_or_size_splits, np.int64)
    lengths[lengths < 0] = array.shape[axis] - lengths[lengths >= 0].sum()
    return list(np.split(array, np.cumsum(lengths)[:-1], axis))


def tile(input: Any, multiples: Any) -> Any:
    """Return a value repeated along its axes."""
    return np.tile(convert_to_tensor(input), _shape(multiples))


def repeat(input: Any, repeats: Any, axis: int | None = None) -> Any:
    """Return a value with each element repeated."""
    return np.repeat(convert_to_tensor(input), repeats, axis)


def reverse(tensor: Any, axis: Any) -> Any:
    """Return a value backwards along axes."""
    return np.flip(convert_to_tensor(tensor), tuple(np.atleast_1d(axis).tolist()))


def roll(input: Any, shift: Any, axis: Any) -> Any:
    """Return a value moved along axes, round the end."""
    return np.roll(convert_to_tensor(input), shift, axis)


def pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0) -> Any:
    """Return a value with more elements at the ends of its axes."""
    array, widths = convert_to_tensor(tensor), [tuple(map(int, pair)) for pair in paddings]
    if mode.upper() == "CONSTANT":
        return np.pad(array, widths, constant_values=constant_values)
    return np.pad(array, widths, mode.lower())  # type: ignore[call-overload]


def broadcast_to(input: Any, shape: Any) -> Any:
    """Return a value repeated to fill a shape."""
    return ops.copy(ops.broadcast_to(convert_to_tensor(input), _shape(shape)))


def meshgrid(*args: Any, indexing: Any = "xy") -> list[Any]:
    """Return the coordinates of a grid."""
    return list(np.meshgrid(*map(convert_to_tensor, args), indexing=indexing))


def one_hot(
    indices: Any,
    depth: int,
    on_value: Any = 1,
    off_value: Any = 0,
    axis: int | None = None,
    dtype: DTypeLike | None = None,
) -> Any:
    """Return ``on_value`` at the given numbers of classes, and ``off_value`` elsewhere."""
    hot = ops.one_hot(indices, int(depth), -1 if axis is None else axis, "bool")
    return np.where(hot, on_value, off_value).astype(to_dtype(dtype or "float32"))


def stop_gradient(input: Any) -> Any:
    """Return the plain value, which is a constant for every tape."""
    return ops.stop_gradient(convert_to_tensor(input))


def _shape(shape: Any) -> Any:
    """Return a shape as NumPy takes it, from a number, a list, a tuple or an array."""
    return tuple(int(n) for n in np.atleast_1d(np.asarray(shape, np.int64)))


def _dtype_of(input: Any, dtype: DTypeLike | None) -> np.dtype[Any]:
    known = getattr(input, "dtype", None) if dtype is None else dtype
    return to_dtype(convert_to_tensor(input).dtype if known is None else known)


def _items(value: Any) -> list[Any]:
    """Return what nested lists and tuples hold."""
    if isinstance(value, (list, tuple)):
        return [item for each in value for item in _items(each)]
    return [value]
