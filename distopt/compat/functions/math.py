"""TensorFlow's functions of elements and along axes, with its arguments and meanings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt import ops
from distopt.compat.functions.arrays import convert_to_tensor, plain
from distopt.variables.indexed_slices import IndexedSlices

Axis = Any


def reduce_sum(input_tensor: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the sum along axes."""
    return _reduced(np.sum, input_tensor, axis, keepdims)


def reduce_prod(input_tensor: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the product along axes."""
    return _reduced(np.prod, input_tensor, axis, keepdims)


def reduce_mean(input_tensor: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the mean along axes; of integers, cut off to an integer."""
    return _reduced(np.mean, input_tensor, axis, keepdims)


def reduce_max(input_tensor: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the greatest element along axes."""
    return _reduced(np.max, input_tensor, axis, keepdims)


def reduce_min(input_tensor: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the least element along axes."""
    return _reduced(np.min, input_tensor, axis, keepdims)


def reduce_any(input_tensor: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return whether any element holds along axes."""
    return _reduced(np.any, input_tensor, axis, keepdims)


def reduce_all(input_tensor: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return whether all elements hold along axes."""
    return _reduced(np.all, input_tensor, axis, keepdims)


def reduce_variance(input_tensor: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the mean squared distance from the mean along axes."""
    return ops.var(convert_to_tensor(input_tensor), axis=_axes(axis), keepdims=keepdims)


def reduce_std(input_tensor: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the root of the variance along axes."""
    return ops.std(convert_to_tensor(input_tensor), axis=_axes(axis), keepdims=keepdims)


def reduce_logsumexp(input_tensor: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return ``log(sum(exp(x)))`` along axes."""
    return ops.logsumexp(convert_to_tensor(input_tensor), _axes(axis), keepdims)


def reduce_euclidean_norm(input_tensor: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the root of the sum of squares along axes."""
    return np.sqrt(reduce_sum(np.square(convert_to_tensor(input_tensor)), axis, keepdims))


def count_nonzero(input: Any, axis: Axis = None, keepdims: bool = False, dtype: Any = "int64") -> Any:
    """Return how many elements are not 0 along axes."""
    return ops.cast(np.count_nonzero(plain(input), axis=_axes(axis), keepdims=keepdims), dtype)


def cumsum(x: Any, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Any:
    """Return the sums of all elements so far along an axis; from the end, or without the element itself."""
    return _cumulated(np.cumsum, 0, convert_to_tensor(x), axis, exclusive, reverse)


def cumprod(x: Any, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Any:
    """Return the products of all elements so far along an axis; from the end, or without the element itself."""
    return _cumulated(np.cumprod, 1, plain(x), axis, exclusive, reverse)


def clip_by_value(t: Any, clip_value_min: Any, clip_value_max: Any) -> Any:
    """Return a value, limited to a range; IndexedSlices stay IndexedSlices."""
    if isinstance(t, IndexedSlices):
        return t.with_values(clip_by_value(t.values, clip_value_min, clip_value_max))
    return ops.minimum(ops.maximum(convert_to_tensor(t), clip_value_min), clip_value_max)


def clip_by_norm(t: Any, clip_norm: Any, axes: Axis = None) -> Any:
    """Return a value, shrunk where its norm is above ``clip_norm``; IndexedSlices stay IndexedSlices."""
    if isinstance(t, IndexedSlices):
        return t.with_values(clip_by_norm(t.values, clip_norm, axes))
    array = convert_to_tensor(t)
    norm = reduce_euclidean_norm(array, axes, keepdims=True)
    return ops.reshape(ops.divide(ops.multiply(array, clip_norm), ops.maximum(norm, clip_norm)), array.shape)


def clip_by_global_norm(t_list: Sequence[Any], clip_norm: Any, use_norm: Any = None) -> tuple[list[Any], Any]:
    """Return values, all shrunk by one factor where their common norm is above ``clip_norm``, and that norm."""
    norm = global_norm(t_list) if use_norm is None else convert_to_tensor(use_norm)
    with np.errstate(divide="ignore", invalid="ignore"):  # a norm that is not finite makes everything NaN
        scale = clip_norm * ops.minimum(ops.divide(1.0, norm), ops.divide(1.0, clip_norm)) + (norm - norm)
    return [None if t is None else ops.cast(ops.multiply(t, scale), t.dtype) for t in t_list], norm


def global_norm(t_list: Sequence[Any]) -> Any:
    """Return the norm of several values together; those that are None do not count."""
    values = [t.values if isinstance(t, IndexedSlices) else convert_to_tensor(t) for t in t_list if t is not None]
    return np.sqrt(add_n([np.sum(np.square(value)) for value in values]))


def l2_loss(t: Any) -> Any:
    """Return half the sum of squares."""
    return ops.divide(np.sum(np.square(t.values if isinstance(t, IndexedSlices) else convert_to_tensor(t))), 2)


def l2_normalize(x: Any, axis: Axis = None, epsilon: float = 1e-12) -> Any:
    """Return a value over its norm along axes; the square of the norm counts as at least ``epsilon``."""
    array = convert_to_tensor(x)
    return ops.multiply(array, ops.rsqrt(ops.maximum(reduce_sum(np.square(array), axis, True), epsilon)))


def add_n(inputs: Sequence[Any]) -> Any:
    """Return the sum of several values."""
    total = convert_to_tensor(inputs[0])
    for each in inputs[1:]:
        total = total + convert_to_tensor(each)
    return total


def pow(x: Any, y: Any) -> Any:
    """Return ``x`` to the power of ``y``."""
    return ops.power(x, y)


def divide(x: Any, y: Any) -> Any:
    """Return ``x / y``."""
    return ops.divide(x, y)


def scalar_mul(scalar: Any, x: Any) -> Any:
    """Return ``scalar * x``; IndexedSlices stay IndexedSlices."""
    return ops.multiply(x, scalar)


def squared_difference(x: Any, y: Any) -> Any:
    """Return ``(x - y) ** 2``."""
    return ops.square(ops.subtract(x, y))


def reciprocal_no_nan(x: Any) -> Any:
    """Return ``1 / x``, and 0 where ``x`` is 0."""
    return ops.divide_no_nan(1.0, convert_to_tensor(x))


def multiply_no_nan(x: Any, y: Any) -> Any:
    """Return ``x * y``, and 0 where ``y`` is 0."""
    with np.errstate(invalid="ignore"):
        return ops.where(convert_to_tensor(y) == 0, 0.0, ops.multiply(x, y))


def xlogy(x: Any, y: Any) -> Any:
    """Return ``x * log(y)``, and 0 where ``x`` is 0."""
    zero = convert_to_tensor(x) == 0
    return ops.where(zero, 0.0, ops.multiply(x, ops.log(ops.where(zero, 1.0, convert_to_tensor(y)))))


def erf(x: Any) -> Any:
    """Return the error function."""
    array = plain(x)
    return np.vectorize(math.erf, otypes=[np.float64])(array).astype(array.dtype)


def lgamma(x: Any) -> Any:
    """Return the logarithm of the gamma function."""
    array = plain(x)
    return np.vectorize(math.lgamma, otypes=[np.float64])(array).astype(array.dtype)


def round(x: Any) -> Any:
    """Return the nearest whole numbers; halves go to even ones."""
    return ops.round(x)


def complex(real: Any, imag: Any) -> Any:
    """Return complex numbers of their parts."""
    parts = convert_to_tensor(real), convert_to_tensor(imag)
    return (parts[0] + 1j * parts[1]).astype("complex128" if parts[0].dtype == np.float64 else "complex64")


def polyval(coeffs: Sequence[Any], x: Any) -> Any:
    """Return the value of a polynomial, its highest power first."""
    result = convert_to_tensor(0.0)
    for coefficient in coeffs:
        result = result * convert_to_tensor(x) + convert_to_tensor(coefficient)
    return result


def moments(x: Any, axes: Axis, shift: Any = None, keepdims: bool = False) -> tuple[Any, Any]:
    """Return mean and variance along axes."""
    return reduce_mean(x, axes, keepdims), reduce_variance(x, axes, keepdims)


def _reduced(function: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    """Return a reduction, which of integers is an integer of the same dtype, or an answer."""
    array = convert_to_tensor(x)
    result = function(array, axis=_axes(axis), keepdims=keepdims)
    return result.astype(array.dtype) if array.dtype.kind in "iu" and result.dtype != bool else result


def _axes(axis: Axis) -> Any:
    return tuple(int(each) for each in axis) if isinstance(axis, (list, tuple, np.ndarray)) and np.ndim(axis) else axis


def _cumulated(function: Any, neutral: int, array: Any, axis: int, exclusive: bool, reverse: bool) -> Any:
    array = np.flip(array, axis) if reverse else array
    result = function(array, axis=axis).astype(array.dtype)
    if exclusive:
        first = np.full_like(plain(np.take(array, [0], axis)), neutral)
        result = np.concatenate([first, np.take(result, np.arange(array.shape[axis] - 1), axis)], axis)
    return np.flip(result, axis) if reverse else result
