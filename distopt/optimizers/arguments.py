"""Checks that both families share: real numbers, unknown arguments."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from distopt.errors import InvalidArgumentError, UnknownArgumentError


def as_float(value: Any) -> float:
    """Return one real number as a float, and anything else (a string, a list, None) as NaN."""
    try:
        array = np.asarray(value)
        return float(array) if array.ndim == 0 and array.dtype.kind not in "USbc" else math.nan
    except (TypeError, ValueError):
        return math.nan


def real(owner: str, argument: str, value: Any) -> float:
    """Return a hyperparameter as a float.

    Raises:
        InvalidArgumentError: it is no single real number, or NaN.
    """
    number = as_float(value)
    if math.isnan(number):
        raise InvalidArgumentError(f"{owner}({argument}={value!r}): expected a real number")
    return number


def finite(owner: str, argument: str, value: Any, low: float = -math.inf) -> float:
    """Return a finite hyperparameter, not below ``low``, as a float."""
    number = real(owner, argument, value)
    if not (math.isfinite(number) and number >= low):
        limit = "" if low == -math.inf else f", {low} or more"
        raise InvalidArgumentError(f"{owner}({argument}={value!r}): expected a finite number{limit}")
    return number


def evaluated(optimizer: str, step: int, argument: str, value: Any) -> float:
    """Return what a schedule or function gave as a float.

    Raises:
        InvalidArgumentError: no finite number.
    """
    number = as_float(value)
    if not math.isfinite(number):
        raise InvalidArgumentError(
            f"optimizer {optimizer!r}, step {step}: the schedule or function of {argument} gave {value!r}: "
            "expected a finite real number"
        )
    return number


def within(owner: str, argument: str, value: Any, low: float, high: float) -> float:
    """Return a hyperparameter that lies in [low, high] as a float."""
    number = real(owner, argument, value)
    if not low <= number <= high:
        raise InvalidArgumentError(f"{owner}({argument}={value!r}): expected a number from {low} to {high}")
    return number


def unknown_arguments(owner: str, given: Iterable[str], known: Iterable[str], kind: type[Exception]) -> Exception:
    """Return the error for arguments that nobody knows, with the nearest match.

    Args:
        owner: the class.
        given: their names.
        known: the names that exist.
        kind: the exception's class.
    """
    hints = []
    for name in given:
        nearest = ["learning_rate"] if name == "lr" else difflib.get_close_matches(name, list(known), n=1)
        hints.append(f"{name!r}" + (f" (did you mean {nearest[0]!r}?)" if nearest else ""))
    text = "Unexpected keyword argument passed to optimizer"
    if kind is not UnknownArgumentError:
        text = "Argument(s) not recognized"
    return kind(f"{owner}: {text}: {', '.join(hints)}")


def hook_name(hook: Any) -> str:
    """Return what messages call a hook."""
    return getattr(hook, "__name__", type(hook).__name__)
