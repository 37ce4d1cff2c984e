"""Operations that make arrays, and that move, choose or repeat elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distopt.arrays import Array, to_dtype
from distopt.ops.operands import cast, convert_to_tensor, each, fitted, of_one, of_several, operand, shaping
from distopt.variables.array_like import ArrayLike, Traced


def array(x: Any, dtype: npt.DTypeLike | None = None) -> Any:
    """Return ``x`` as an array; ``convert_to_tensor`` under NumPy's name."""
    return convert_to_tensor(x, dtype)


def convert_to_numpy(x: Any) -> Array:
    """Return the plain value as a dense array, which no tape follows."""
    x = convert_to_tensor(x)
    return x.numpy() if isinstance(x, Traced) else np.asarray(x)


def copy(x: Any) -> Any:
    """Return a copy of the value (traced under a tape)."""
    return convert_to_tensor(x).copy()


def is_tensor(x: Any) -> bool:
    """Return whether ``x`` is an array, a number of NumPy, a variable or a traced value; no list, no number."""
    return isinstance(x, (np.ndarray, np.generic, ArrayLike, Traced))


def ndim(x: Any) -> int:
    """Return the number of axes."""
    return int(np.ndim(operand(x)))


def size(x: Any) -> int:
    """Return the number of elements."""
    return int(np.size(operand(x)))


def zeros(shape: int | Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
    """Return an array of zeros, float32 by default."""
    return np.zeros(shape, to_dtype(dtype or "float32"))


def ones(shape: int | Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
    """Return an array of ones, float32 by default."""
    return np.ones(shape, to_dtype(dtype or "float32"))


def empty(shape: int | Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
    """Return an array of undefined values, float32 by default."""
    return np.empty(shape, to_dtype(dtype or "float32"))


def full(shape: int | Sequence[int], fill_value: float, dtype: npt.DTypeLike | None = None) -> Array:
    """Return an array filled with one number, float32 by default."""
    return np.full(shape, fill_value, to_dtype(dtype or "float32"))


def eye(N: int, M: int | None = None, k: int = 0, dtype: npt.DTypeLike | None = None) -> Array:  # noqa: N803 (Keras' names)
    """Return a matrix with ones on its diagonal number ``k``, float32 by default."""
    return np.eye(N, M, k, to_dtype(dtype or "float32"))


def identity(n: int, dtype: npt.DTypeLike | None = None) -> Array:
    """Return the identity matrix, float32 by default."""
    return eye(n, dtype=dtype)


def arange(*limits: Any, dtype: npt.DTypeLike | None = None) -> Any:
    """Return ``numpy.arange``: integers for integers, else float32 by default."""
    return fitted(np.arange(*limits), *limits) if dtype is None else np.arange(*limits, dtype=to_dtype(dtype))


def linspace(
    start: float, stop: float, num: int = 50, endpoint: bool = True, dtype: npt.DTypeLike | None = None
) -> Any:
    """Return numbers at equal distances, float32 by default."""
    return np.linspace(start, stop, num, endpoint).astype(to_dtype(dtype or "float32"))


def one_hot(x: Any, num_classes: int, axis: int = -1, dtype: npt.DTypeLike | None = None) -> Any:
    """Return ones at the given numbers of classes, and zeros elsewhere; float32 by default."""
    hot = (convert_to_numpy(cast(x, "int64"))[..., np.newaxis] == np.arange(num_classes)).astype(
        to_dtype(dtype or "float32")
    )
    return np.moveaxis(hot, -1, axis)


def gather(params: Any, indices: Any, axis: int = 0) -> Any:
    """Return elements of ``params`` along ``axis``; the gradient of a variable's rows is IndexedSlices."""
    return np.take(convert_to_tensor(params), indices, axis=axis)


def where(condition: Any, *choices: Any) -> Any:
    """Return ``numpy.where``: elements of the first choice where the condition holds, else of the second."""
    return fitted(np.where(operand(condition), *map(operand, choices)), *choices)


def slice(inputs: Any, start_indices: Any, shape: Any) -> Any:
    """Return the block of this shape that begins at these indices."""
    return convert_to_tensor(inputs)[_block(start_indices, shape)]


def slice_update(inputs: Any, start_indices: Any, updates: Any) -> Any:
    """Return a copy in which ``updates`` replace the block that begins at these indices."""
    result = convert_to_numpy(inputs).copy()
    result[_block(start_indices, np.shape(operand(updates)))] = convert_to_numpy(updates)
    return result


def scatter(indices: Any, values: Any, shape: Any) -> Any:
    """Return zeros of this shape, to which values are added at rows of indices (n, axes)."""
    values = convert_to_numpy(values)
    result = np.zeros(tuple(shape), values.dtype)
    np.add.at(result, places(indices), values)
    return result


def scatter_update(inputs: Any, indices: Any, updates: Any) -> Any:
    """Return a copy in which ``updates`` stand at rows of indices (n, axes)."""
    result = convert_to_numpy(inputs).copy()
    result[places(indices)] = convert_to_numpy(updates)
    return result


def places(indices: Any) -> tuple[Array, ...]:
    """Return indices (..., axes), one row a place, as NumPy takes them: one array an axis."""
    return tuple(np.moveaxis(convert_to_numpy(cast(indices, "int64")), -1, 0))


def cond(pred: Any, true_fn: Callable[[], Any], false_fn: Callable[[], Any]) -> Any:
    """Return ``true_fn()`` if ``pred`` holds, else ``false_fn()``."""
    return true_fn() if pred else false_fn()


def while_loop(
    cond: Callable[..., Any], body: Callable[..., Any], loop_vars: Any, maximum_iterations: int | None = None
) -> Any:
    """Return the loop variables, after ``body`` has replaced them as long as ``cond`` holds."""
    many = isinstance(loop_vars, (list, tuple))
    values, turns = (tuple(loop_vars) if many else (loop_vars,)), 0
    while cond(*values) and (maximum_iterations is None or turns < maximum_iterations):
        returned, turns = body(*values), turns + 1
        values = tuple(returned) if isinstance(returned, (list, tuple)) else (returned,)
    return values if many else values[0]


def _block(begin: Any, shape: Any) -> Any:
    first = convert_to_numpy(cast(begin, "int64")).ravel().tolist()
    return tuple(np.s_[start : start + length] for start, length in zip(first, shape, strict=True))


take, take_along_axis, repeat, tile = each(of_one, np.take, np.take_along_axis, np.repeat, np.tile)
sort, flip, roll, diag, pad = each(of_one, np.sort, np.flip, np.roll, np.diag, np.pad)
full_like, ones_like, zeros_like, nan_to_num = each(of_one, np.full_like, np.ones_like, np.zeros_like, np.nan_to_num)
broadcast_to, expand_dims, ravel = each(shaping, np.broadcast_to, np.expand_dims, np.ravel)
reshape, squeeze, transpose, split = each(shaping, np.reshape, np.squeeze, np.transpose, np.split)
moveaxis, swapaxes = each(shaping, np.moveaxis, np.swapaxes)
concatenate, stack, hstack, vstack = each(of_several, np.concatenate, np.stack, np.hstack, np.vstack)
