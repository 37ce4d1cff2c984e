"""Gradients as users bring them, fitted to their variables: shapes and dtypes."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from distopt.arrays import Array, native, refuse_mask
from distopt.errors import InvalidArgumentError
from distopt.variables.array_like import stop_gradient
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable

Gradient: TypeAlias = "Array | IndexedSlices"
Pair: TypeAlias = "tuple[Any, Variable]"


def fit(gradient: Any, variable: Variable, said: str, *, casts: bool) -> Gradient:
    """Return a gradient in its variable's shape and dtype.

    Args:
        gradient: anything ``np.asarray`` takes, or IndexedSlices; not changed.
        variable: the variable.
        said: how the message begins.
        casts: whether an array of another real dtype is cast or refused (numbers and lists are always cast).

    Raises:
        InvalidArgumentError: it does not fit.
    """
    has_dtype = hasattr(gradient, "dtype")
    array = _as_rows(gradient, variable) if isinstance(gradient, IndexedSlices) else _as_array(gradient, variable, said)
    if array.shape != variable.shape:
        raise InvalidArgumentError(
            f"{said} of {variable.name!r} has shape {array.shape}, and the variable {variable.shape}: "
            "they must be equal (nothing is broadcast)"
        )
    if array.dtype == variable.dtype:
        return array
    if array.dtype.kind == "c" or (has_dtype and not casts):
        raise InvalidArgumentError(
            f"{said} of {variable.name!r} has dtype {array.dtype}, and the variable {variable.dtype}: "
            f"pass gradient.astype({variable.dtype.name!r})"
        )
    return array.astype(variable.dtype)


def _as_rows(slices: IndexedSlices, variable: Variable) -> IndexedSlices:
    return slices if slices.dense_shape else IndexedSlices(slices.values, slices.indices, variable.shape)


def _as_array(gradient: Any, variable: Variable, said: str) -> Array:
    if gradient is None:
        raise InvalidArgumentError(
            f"{said} of {variable.name!r} is None: leave the pair out to skip the variable, or return zeros"
        )
    refuse_mask(gradient, f"{said} of {variable.name!r}")
    try:
        array = np.asarray(stop_gradient(gradient))  # that of an inner tape is a traced value
    except Exception as error:
        raise InvalidArgumentError(
            f"{said} of {variable.name!r} is {type(gradient).__name__}, which np.asarray does not take: {error}"
        ) from error
    if array.dtype.hasobject or array.dtype.kind in "USMm":
        raise InvalidArgumentError(
            f"{said} of {variable.name!r} is {type(gradient).__name__} of dtype {array.dtype}: expected an "
            "array of numbers or IndexedSlices"
        )
    return native(array)
