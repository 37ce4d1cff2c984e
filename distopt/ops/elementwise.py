"""Operations on each element, and on the elements along axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.ops.operands import each, fitted, of_one, of_two, operand, shape, with_zero_at_zero
from distopt.variables.indexed_slices import IndexedSlices


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


def divide_no_nan(x1: Any, x2: Any) -> Any:
    """Return ``x1 / x2``, and 0 where ``x2`` is 0."""
    zero = operand(x2) == 0
    return fitted(np.where(zero, 0, _divide(x1, np.where(zero, 1, operand(x2)))), x1, x2)


def negative(x: Any) -> Any:
    """Return ``-x``; IndexedSlices stay IndexedSlices."""
    return -x if isinstance(x, IndexedSlices) else np.negative(operand(x))


def rsqrt(x: Any) -> Any:
    """Return ``1 / √x``."""
    return fitted(1 / np.sqrt(operand(x)), x)


def reciprocal(x: Any) -> Any:
    """Return ``1 / x``, also of integers."""
    return fitted(1 / operand(x), x)


def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Return ``log(sum(exp(x)))`` along ``axis``, without overflow."""
    greatest = np.max(operand(x), axis=axis, keepdims=True)
    greatest = np.where(np.isfinite(greatest), greatest, 0)
    result = np.log(np.sum(np.exp(operand(x) - greatest), axis=axis, keepdims=True)) + greatest
    return fitted(result if keepdims else np.squeeze(result, axis=axis), x)


_multiply, _divide = each(of_two, np.multiply, np.divide)
true_divide = divide

abs, absolute, sign, square = each(with_zero_at_zero, np.abs, np.abs, np.sign, np.square)
sqrt, tanh, floor = each(with_zero_at_zero, np.sqrt, np.tanh, np.floor)
exp, exp2, log, log1p, log2, log10 = each(of_one, np.exp, np.exp2, np.log, np.log1p, np.log2, np.log10)
expm1, sin, cos, tan, sinh, cosh = each(of_one, np.expm1, np.sin, np.cos, np.tan, np.sinh, np.cosh)
arcsin, arccos, arctan, arcsinh, arccosh, arctanh = each(
    of_one, np.arcsin, np.arccos, np.arctan, np.arcsinh, np.arccosh, np.arctanh
)
ceil, round, trunc = each(of_one, np.ceil, np.round, np.trunc)
real, imag, conj, conjugate, angle = each(of_one, np.real, np.imag, np.conj, np.conjugate, np.angle)
isfinite, isinf, isnan, logical_not = each(of_one, np.isfinite, np.isinf, np.isnan, np.logical_not)
all, any, argmax, argmin, argsort, clip = each(of_one, np.all, np.any, np.argmax, np.argmin, np.argsort, np.clip)
cumsum, cumprod, max, mean, median, min = each(of_one, np.cumsum, np.cumprod, np.max, np.mean, np.median, np.min)
prod, quantile, std, sum, var = each(of_one, np.prod, np.quantile, np.std, np.sum, np.var)
amax, amin, count_nonzero, average = max, min, of_one(np.count_nonzero), of_one(np.average)
add, subtract, power, arctan2 = each(of_two, np.add, np.subtract, np.power, np.arctan2)
maximum, minimum, mod, floor_divide = each(of_two, np.maximum, np.minimum, np.mod, np.floor_divide)
logaddexp, hypot, copysign = each(of_two, np.logaddexp, np.hypot, np.copysign)
equal, not_equal = each(of_two, np.equal, np.not_equal)
greater, greater_equal, less, less_equal = each(of_two, np.greater, np.greater_equal, np.less, np.less_equal)
logical_and, logical_or, logical_xor = each(of_two, np.logical_and, np.logical_or, np.logical_xor)
pow = power
