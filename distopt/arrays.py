"""Converts values to arrays, and tells which dtypes can be trained and in which dtype they are summed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from distopt.errors import InvalidArgumentError

Array = npt.NDArray[Any]

_SIXTEEN_BIT = frozenset({"float16", "bfloat16"})
_FLOATING = frozenset({"float16", "bfloat16", "float32", "float64", "complex64", "complex128"})
_EXACT = frozenset("biu")


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Return whether variables of ``dtype`` can be trained; by name, because NumPy itself does not know bfloat16."""
    return dtype.name in _FLOATING


def wide_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which sums of ``dtype`` are formed: float32 for the 16-bit types, else ``dtype``."""
    return np.dtype(np.float32) if dtype.name in _SIXTEEN_BIT else dtype


def native(array: Array) -> Array:
    """Return ``array`` in this machine's byte order, without a copy where it has it: names of dtypes do not tell it."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def to_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return ``np.dtype(dtype)`` in this machine's byte order, also for "bfloat16" before ``ml_dtypes`` is imported."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    known: np.dtype[Any] = np.dtype(dtype)
    # A native one as it is: NumPy has one object for each, and programs ask whether dtypes are the same object.
    return known if known.isnative else known.newbyteorder("=")


def to_array(value: Any, what: str, numbers: Any = np.float32) -> Array:
    """Return ``value`` as a native array, not copied where possible; numbers of Python get the dtype ``numbers``.

    Raises:
        InvalidArgumentError: ``value`` (called ``what`` in the message) does not consist of numbers.
    """
    refuse_mask(value, what)
    try:
        array = np.asarray(value, dtype=numbers if _is_python(value) else None)
    except ValueError as error:
        raise InvalidArgumentError(f"{what} is no array: {error}. Give nested sequences of equal lengths.") from error
    if not (array.dtype.kind in _EXACT or is_floating(array.dtype)):
        raise InvalidArgumentError(
            f"{what} has dtype {array.dtype} (a {type(value).__name__}); only numbers can be held. "
            "Convert it with np.asarray(..., dtype='float32')."
        )
    return native(array)


def refuse_mask(value: Any, what: str) -> None:
    """Refuse a masked array: its mask would be lost, and what lies under it would count.

    Raises:
        InvalidArgumentError: elements of ``value`` are masked.
    """
    if type(value) is not np.ndarray and isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise InvalidArgumentError(
            f"{what} is a masked array, whose mask would be lost: give value.filled(0) or value.compressed(), or pass "
            "weights of 0 where the loss takes weights"
        )


def cast(array: Array, dtype: np.dtype[Any], what: str) -> Array:
    """Return ``array`` in ``dtype``; not a copy where it has this dtype already.

    Raises:
        InvalidArgumentError: ``dtype`` can't hold a value: a fraction in integers, a complex number in reals.
    """
    if array.dtype == dtype:
        return array
    if array.dtype.kind == "c":
        fits = dtype.kind == "c"
    else:
        fits = is_floating(dtype) or bool(np.all(np.isfinite(array) & (np.trunc(array) == array)))
    if not fits:
        raise InvalidArgumentError(
            f"{what} of dtype {dtype} received {array.dtype}, which it cannot hold. "
            f"Convert it first: value.astype({dtype.name!r})."
        )
    return array.astype(dtype)


def _is_python(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_python, value))
    return isinstance(value, (bool, int, float)) and not isinstance(value, np.generic)
