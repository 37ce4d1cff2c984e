"""TensorFlow's functions that choose, sort and scatter elements, with its arguments and meanings."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt import ops
from distopt.arrays import Array, to_dtype
from distopt.compat.functions.arrays import convert_to_tensor, plain
from distopt.errors import InvalidArgumentError
from distopt.ops.making import places


def gather(params: Any, indices: Any, validate_indices: Any = None, axis: Any = None, batch_dims: int = 0) -> Any:
    """Return elements along an axis; the gradient of a variable's rows is IndexedSlices."""
    if batch_dims:
        return np.take_along_axis(convert_to_tensor(params), convert_to_tensor(indices), batch_dims)
    return ops.gather(params, np.asarray(convert_to_tensor(indices)), 0 if axis is None else int(axis))


def gather_nd(params: Any, indices: Any, batch_dims: int = 0) -> Any:
    """Return the elements at indices (..., axes)."""
    return convert_to_tensor(params)[places(indices)]


def slice(input_: Any, begin: Any, size: Any) -> Any:
    """Return the block that begins at ``begin``; a length of -1 reaches to the end."""
    array = convert_to_tensor(input_)
    first, lengths = (np.asarray(each, np.int64).ravel().tolist() for each in (begin, size))
    ends = [n if length == -1 else at + length for at, length, n in zip(first, lengths, array.shape, strict=True)]
    return array[tuple(np.s_[at:end] for at, end in zip(first, ends, strict=True))]


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """Return elements of ``x`` where the condition holds, else of ``y``; without both, the places where it holds."""
    if x is None and y is None:
        return np.argwhere(plain(condition))
    return ops.where(condition, x, y)


def boolean_mask(tensor: Any, mask: Any, axis: int | None = None) -> Any:
    """Return the elements where the mask holds."""
    chosen = plain(mask).astype(bool)
    return convert_to_tensor(tensor)[(np.s_[:],) * (axis or 0) + (chosen,)]


def argmax(input: Any, axis: int | None = None, output_type: Any = "int64") -> Any:
    """Return where the greatest element is along an axis, the first one by default."""
    return np.argmax(plain(input), axis or 0).astype(to_dtype(output_type))


def argmin(input: Any, axis: int | None = None, output_type: Any = "int64") -> Any:
    """Return where the least element is along an axis, the first one by default."""
    return np.argmin(plain(input), axis or 0).astype(to_dtype(output_type))


def sort(values: Any, axis: int = -1, direction: str = "ASCENDING") -> Any:
    """Return the elements in order."""
    ordered = np.sort(convert_to_tensor(values), axis)
    return np.flip(ordered, axis) if direction == "DESCENDING" else ordered


def argsort(values: Any, axis: int = -1, direction: str = "ASCENDING", stable: bool = False) -> Array:
    """Return the places of the elements in order; equal ones keep theirs."""
    array = plain(values)
    order = np.argsort(-array if direction == "DESCENDING" else array, axis, kind="stable")
    return order.astype(np.int32)


def top_k(input: Any, k: int = 1, sorted: bool = True) -> tuple[Any, Array]:
    """Return the ``k`` greatest elements of the last axis, and their places."""
    order = argsort(input, direction="DESCENDING")[..., : int(k)]
    return np.take_along_axis(convert_to_tensor(input), order, -1), order


def unique(x: Any, out_idx: Any = "int32") -> tuple[Array, Array]:
    """Return the elements in order of first appearance, each once, and the place of every element among them."""
    values, first, inverse = np.unique(plain(x), return_index=True, return_inverse=True)
    order = np.argsort(first)
    return values[order], np.argsort(order)[inverse].astype(to_dtype(out_idx))


def searchsorted(sorted_sequence: Any, values: Any, side: Any = "left", out_type: Any = "int32") -> Array:
    """Return where values would stand in a sorted sequence."""
    found = np.searchsorted(
        plain(sorted_sequence),
        plain(values),
        side,
    )
    return np.asarray(found).astype(to_dtype(out_type))


def scatter_nd(indices: Any, updates: Any, shape: Any) -> Array:
    """Return zeros of this shape, to which updates are added at indices (..., axes)."""
    values = plain(updates)
    return tensor_scatter_nd_add(np.zeros(tuple(np.asarray(shape).tolist()), values.dtype), indices, values)


def tensor_scatter_nd_update(tensor: Any, indices: Any, updates: Any) -> Array:
    """Return a copy in which updates stand at indices (..., axes)."""
    result = plain(tensor).copy()
    result[places(indices)] = plain(updates)
    return result


def tensor_scatter_nd_add(tensor: Any, indices: Any, updates: Any) -> Array:
    """Return a copy to which updates are added at indices (..., axes)."""
    result = plain(tensor).copy()
    np.add.at(result, places(indices), plain(updates))
    return result


def tensor_scatter_nd_sub(tensor: Any, indices: Any, updates: Any) -> Array:
    """Return a copy from which updates are subtracted at indices (..., axes)."""
    return tensor_scatter_nd_add(tensor, indices, -plain(updates))


def unsorted_segment_sum(data: Any, segment_ids: Any, num_segments: Any) -> Array:
    """Return the sums of the rows that have the same number; negative numbers are left out."""
    rows, ids = plain(data), np.asarray(segment_ids, np.int64)
    total = np.zeros((int(num_segments), *rows.shape[ids.ndim :]), rows.dtype)
    np.add.at(total, ids[ids >= 0], rows[ids >= 0])
    return total


def unsorted_segment_mean(data: Any, segment_ids: Any, num_segments: Any) -> Any:
    """Return the means of the rows that have the same number; 0 where there is none."""
    total = unsorted_segment_sum(data, segment_ids, num_segments)
    counts = np.bincount(np.asarray(segment_ids).ravel(), minlength=int(num_segments)).astype(total.dtype)
    return total / np.maximum(counts, 1).reshape((-1,) + (1,) * (total.ndim - 1))


def segment_sum(data: Any, segment_ids: Any) -> Array:
    """Return the sums of the rows that have the same number."""
    ids = np.asarray(segment_ids, np.int64)
    return unsorted_segment_sum(data, ids, int(ids.max(initial=-1)) + 1)


def embedding_lookup(params: Any, ids: Any) -> Any:
    """Return rows of a table, which may be the only one in a list."""
    return gather(params[0] if isinstance(params, list | tuple) and len(params) == 1 else params, ids)


def unravel_index(indices: Any, dims: Any) -> Array:
    """Return the places that numbers of elements stand for, one row an axis."""
    return np.stack(np.unravel_index(np.asarray(indices), tuple(np.asarray(dims).tolist())))


def assert_equal(x: Any, y: Any, message: str | None = None, summarize: Any = None) -> None:
    """Raise an error unless all elements are equal."""
    if not np.array_equal(plain(x), plain(y)):
        raise InvalidArgumentError(message or f"assert_equal received {x!r} and {y!r}, which differ")
