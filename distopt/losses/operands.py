"""Converts the operands of losses: arrays, Variables and traced values, to a dtype that can hold sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.arrays import is_floating, to_array, wide_dtype
from distopt.errors import InvalidArgumentError
from distopt.variables.array_like import Traced
from distopt.variables.variable import Variable


def operand(value: Any, what: str) -> Any:
    """Return an array-like as an array; Variables and traced values as they are."""
    return value if isinstance(value, (Traced, Variable)) else to_array(value, what)


def cast(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return ``value`` in ``dtype``."""
    return value if value.dtype == dtype else value.astype(dtype)


def floating_operand(value: Any, what: str) -> tuple[Any, np.dtype[Any]]:
    """Return ``value`` in the dtype to compute in (float32 for 16 bits), and the dtype of the result.

    Integers become float32.
    """
    array = operand(value, what)
    dtype = array.dtype if is_floating(array.dtype) else np.dtype(np.float32)
    return cast(array, wide_dtype(dtype)), dtype


def matching_operands(y_true: Any, y_pred: Any, caller: str) -> tuple[Any, Any, np.dtype[Any]]:
    """Return ``y_true`` and ``y_pred`` in the dtype to compute in, and the dtype of the result.

    Raises:
        InvalidArgumentError: their shapes differ, or have no axis of examples.
    """
    y_pred, dtype = floating_operand(y_pred, "y_pred")
    y_true = operand(y_true, "y_true")
    if y_true.shape != y_pred.shape:
        raise InvalidArgumentError(
            f"{caller}: y_true has shape {y_true.shape} and y_pred {y_pred.shape}; they must be the same,"
            " nothing is broadcast. Reshape one of them: y_true.reshape(y_pred.shape), y_pred[:, 0]."
        )
    if y_pred.ndim == 0:
        raise InvalidArgumentError(f"{caller}: y_pred is a scalar; examples belong on the first axis.")
    return cast(y_true, y_pred.dtype), y_pred, dtype


def mean_per_example(elements: Any) -> Any:
    """Return the mean over the last axis; with a single axis, that of the examples, return the elements unchanged."""
    return np.mean(elements, axis=-1) if elements.ndim > 1 else elements


def plain(value: Any) -> Any:
    """Return the plain values of ``value`` as an array, which no tape follows."""
    return value.numpy() if isinstance(value, (Traced, Variable)) else np.asarray(value)
