"""The base of all learning rate schedules, and the checks of their arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from distopt.arguments import as_float
from distopt.arrays import to_dtype
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.shown import as_call

_OF_A_DTYPE = "__numpy__"


class LearningRateSchedule:
    """A learning rate that is a function of the step: ``learning_rate = schedule(step)``.

    A subclass overrides ``__call__`` and, to be saved with its optimizer, ``get_config``; with the decorator
    ``register`` dictionaries are read back without ``custom_objects``. The step is the number of steps already
    done (0 in the first): an int, a float or the optimizer's ``iterations``.

    The schedules of distopt compute in float64 and round once, to the dtype of ``initial_learning_rate``
    (float32 for a Python number). Their value depends on nothing but their arguments: they have no state.

    Example:
        >>> class Halved(LearningRateSchedule):
        ...     def __call__(self, step):
        ...         return 0.1 / 2 ** int(step)
        >>> Halved()(1)
        0.05

    Source: Keras 3, ``keras.optimizers.schedules.LearningRateSchedule``.
    """

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of ``step``."""
        raise NotImplementedError(f"{type(self).__name__} is a learning rate schedule without __call__(step).")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs to make this schedule again."""
        raise NotImplementedError(
            f"{type(self).__name__} is a learning rate schedule without get_config(): it can't be saved."
        )

    def __repr__(self) -> str:
        return as_call(self, self.get_config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a schedule from what ``get_config`` returned."""
        return cls(**config)


def real_number(owner: str, argument: str, value: Any) -> int | float:
    """Return ``value`` as a finite Python number."""
    number = as_float(value)
    if not math.isfinite(number):
        raise InvalidArgumentError(f"{owner}: {argument} must be one finite real number, received {value!r}.")
    return int(number) if np.asarray(value).dtype.kind in "iu" else number


def number_at_least(owner: str, argument: str, value: Any, least: float) -> int | float:
    """Return ``value`` as a finite Python number that is not below ``least``."""
    number = real_number(owner, argument, value)
    if number < least:
        raise InvalidArgumentError(f"{owner}: {argument} must be at least {least}, received {value!r}.")
    return number


def positive_number(owner: str, argument: str, value: Any) -> int | float:
    """Return ``value`` as a finite Python number above zero."""
    number = real_number(owner, argument, value)
    if number <= 0:
        raise InvalidArgumentError(f"{owner}: {argument} must be greater than 0, received {value!r}.")
    return number


def learning_rate(owner: str, value: Any, argument: str = "initial_learning_rate") -> np.floating[Any]:
    """Return ``value`` as a NumPy scalar of its dtype, float32 for Python numbers and integers."""
    if isinstance(value, Mapping) and value.get("class_name") == _OF_A_DTYPE:
        value = np.asarray(value["config"]["value"], to_dtype(value["config"]["dtype"]))
    number = real_number(owner, argument, value)
    dtype = getattr(value, "dtype", np.dtype(np.float32))
    if np.dtype(dtype).kind in "iu":
        dtype = np.dtype(np.float32)
    return np.dtype(dtype).type(number)  # type: ignore[no-any-return]


def config_value(rate: np.floating[Any]) -> float | dict[str, Any]:
    """Return ``rate`` as JSON can hold it: a number, or, if its dtype is not float32, an array as Keras 3 writes it."""
    if rate.dtype == np.float32:
        return float(rate)
    return {"class_name": _OF_A_DTYPE, "config": {"value": float(rate), "dtype": rate.dtype.name}}


def step_number(step: Any) -> float:
    """Return ``step`` (a number or a scalar Variable) as a float64."""
    return float(np.asarray(step))
