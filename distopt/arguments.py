"""Checks that both families share: real numbers, unknown arguments."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from distopt.errors import InvalidArgumentError, UnknownArgumentError

BELOW_ONE = math.nextafter(1.0, 0.0)
"""The highest decay of a moment: with a decay of 1 the moment would stay at zero for ever."""


SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
"""The positive numbers that float32 holds with all its digits, and whose inverse it holds too."""


def as_float(value: Any) -> float:
    """Return one real number as a float, and anything else (a string, a list, None) as NaN."""
    try:
        array = np.asarray(value)
        return float(array) if array.ndim == 0 and array.dtype.kind not in "USbc" else math.nan
    except (TypeError, ValueError):
        return math.nan


def as_int(value: Any) -> int | None:
    """Return one whole number as an int, and anything else (True, 2.0, a string) as None."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def real(owner: str, argument: str, value: Any) -> float:
    """Return a hyperparameter as a float.

    Raises:
        InvalidArgumentError: the value is no single real number, or NaN.
    """
    number = as_float(value)
    if math.isnan(number):
        raise InvalidArgumentError(f"{owner}({argument}={value!r}): expected a real number")
    return number


def finite(owner: str, argument: str, value: Any, low: float = -math.inf) -> float:
    """Return a finite hyperparameter, not below ``low``, as a float."""
    number = real(owner, argument, value)
    if not (abs(number) <= LARGEST and number >= low):
        limit = "" if low == -math.inf else f", {low} or more"
        raise InvalidArgumentError(f"{owner}({argument}={value!r}): expected a finite number of float32{limit}")
    return number


def evaluated(optimizer: str, step: int, argument: str, value: Any) -> float:
    """Return the result of a schedule or function as a float.

    Raises:
        InvalidArgumentError: the result is no finite number of float32, in which hyperparameters are.
    """
    number = as_float(value)
    if not abs(number) <= LARGEST:
        raise InvalidArgumentError(
            f"optimizer {optimizer!r}, step {step}: the schedule or function of {argument} gave {value!r}: "
            "expected a finite real number of float32"
        )
    return number


def within(owner: str, argument: str, value: Any, low: float, high: float) -> float:
    """Return a hyperparameter that lies in [low, high] as a float."""
    number = real(owner, argument, value)
    if not low <= number <= high:
        raise InvalidArgumentError(f"{owner}({argument}={value!r}): expected a number from {low} to {high}")
    return number


def flag(owner: str, argument: str, value: Any) -> bool:
    """Return True or False.

    Raises:
        InvalidArgumentError: the value is something else, which Python would take for True or False.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidArgumentError(f"{owner}({argument}={value!r}): expected True or False")
    return bool(value)


def positive(owner: str, argument: str, value: Any) -> float:
    """Return a finite hyperparameter above 0 as a float."""
    number = finite(owner, argument, value)
    if number <= 0:
        raise InvalidArgumentError(f"{owner}({argument}={value!r}): expected a number above 0")
    return number


def divisor(owner: str, argument: str, value: Any) -> float:
    """Return a number above 0 that values of float32 are divided by, as a float: its inverse is a number too."""
    number = positive(owner, argument, value)
    if number < SMALLEST:
        raise InvalidArgumentError(
            f"{owner}({argument}={value!r}): values of float32 that are divided by it become infinite: expected "
            f"{SMALLEST:.2g} or more"
        )
    return number


def count(owner: str, argument: str, value: Any, least: int) -> int:
    """Return a hyperparameter that counts something as an int, which must be ``least`` or more."""
    number = as_float(value)
    if not (least <= number < 2**31 and number == int(number)):
        raise InvalidArgumentError(
            f"{owner}({argument}={value!r}): expected a whole number, {least} or more and below 2^31"
        )
    return int(number)


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
    """Return the name by which messages call a hook."""
    return getattr(hook, "__name__", type(hook).__name__)


def checked_hook(argument: str, hook: Any) -> Any:
    """Return a hook that can be called, or None.

    Raises:
        InvalidArgumentError: the hook can't be called.
    """
    if hook is not None and not callable(hook):
        raise InvalidArgumentError(
            f"{argument}: received {hook!r}, which can't be called: expected a function from a list of "
            "(gradient, variable) to such a list"
        )
    return hook


def checked_transformers(hooks: Any) -> list[Callable[..., Any]]:
    """Return a list of hooks; None means no hooks.

    Raises:
        InvalidArgumentError: no list, or an entry that can't be called.
    """
    if hooks is not None and not isinstance(hooks, (list, tuple)):
        raise InvalidArgumentError(
            f"gradient_transformers: received {hooks!r}: expected a list of functions; write [function] for one"
        )
    return [checked_hook("gradient_transformers", hook) for hook in hooks or ()]
