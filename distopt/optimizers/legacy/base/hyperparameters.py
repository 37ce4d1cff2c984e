"""Hyperparameters of the legacy family: numbers, schedules or functions, settable at any time."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from distopt.arguments import finite, within
from distopt.arrays import to_dtype
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.hyperparameter import Hyperparameter
from distopt.optimizers.schedules import LearningRateSchedule
from distopt.optimizers.schedules.serialization import serialize
from distopt.variables.variable import Variable

ApplyState = dict[tuple[str, np.dtype[Any]], dict[str, Any]]


class Hyperparameters(dict[str, Any]):
    """The hyperparameters of one optimizer, by name: numbers, Variables, schedules or functions.

    A number becomes a float32 scalar Variable when ``make_variables`` is called.

    Example:
        >>> hyper = Hyperparameters()
        >>> hyper.put("rho", 0.5, "RMSprop")
        >>> hyper.make_variables("RMSprop")
        >>> hyper["rho"].name
        'RMSprop/rho'
    """

    are_variables = False
    """True once numbers are Variables."""

    def put(self, name: str, value: Any, owner: str) -> None:
        """Set a hyperparameter; a number after a Variable goes into that Variable.

        Args:
            name: the name of the hyperparameter.
            value: a number, a Variable, a schedule, or a function without arguments.
            owner: the optimizer's name, in the names of new Variables.
        """
        if not callable(value) or isinstance(value, Variable):
            if isinstance(self.get(name), Variable):
                self[name].assign(np.float32(value))
                return
            if self.are_variables:
                value = Hyperparameter(value, f"{owner}/{name}")
        self[name] = value

    def make_variables(self, owner: str) -> None:
        """Turn the numbers into Variables, once; from then on ``put`` makes Variables too."""
        if self.are_variables:
            return
        self.are_variables = True
        for name in sorted(self):
            if not callable(self[name]) and not isinstance(self[name], Variable):
                self[name] = Hyperparameter(self[name], f"{owner}/{name}")

    def config_of(self, name: str) -> Any:
        """Return a hyperparameter as JSON can hold it; a function as its current value."""
        value = self[name]
        if isinstance(value, LearningRateSchedule):
            return serialize(value)
        if isinstance(value, bool | int):
            return value
        return float(value() if callable(value) and not isinstance(value, Variable) else value)


def cast(value: Any, dtype: Any) -> Any:
    """Return a number or a Variable's value as a NumPy scalar of a dtype."""
    known = dtype if isinstance(dtype, np.dtype) else to_dtype(dtype)
    return np.asarray(value.storage.array if isinstance(value, Variable) else value).astype(known)[()]


@functools.cache
def coefficient_dtype(var_dtype: Any) -> np.dtype[Any]:
    """Return the dtype of all hyperparameters but the learning rate: bfloat16 can't tell 0.999 from 1."""
    return to_dtype("float32" if np.dtype(var_dtype).name == "bfloat16" else var_dtype)


def below_one(owner: str, name: str, beta: Any) -> float:
    """Return β, the decay of a mean whose bias is corrected by 1 - βᵀ, after checking that it is below 1.

    Raises:
        InvalidArgumentError: β is 1 in the dtype to which it was cast.
    """
    if beta == 1:
        # A number becomes a float32 Variable before it is cast to a wider dtype.
        dtype = "float32" if beta.dtype.itemsize > 4 else beta.dtype.name
        raise InvalidArgumentError(f"{owner}: {name} is 1 in {dtype}, so nothing would be trained: take a smaller one")
    return float(beta)


def numbers_in(local: Mapping[str, Any]) -> dict[str, float]:
    """Return, as floats, those values that ``_prepare_local`` has left for a dtype and that are single numbers."""
    numbers = {}
    for name, value in local.items():
        number = float(value) if isinstance(value, (float, np.floating)) else _as_number(value)
        if number is not None:
            numbers[name] = number
    return numbers


def _as_number(value: Any) -> float | None:
    if value is None or isinstance(value, (str, bytes)) or np.ndim(value) != 0:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def checked_epsilon(owner: str, epsilon: Any) -> float:
    """Return epsilon; None and 0 mean 1e-7, as in tf_keras."""
    number = 0.0 if epsilon is None else finite(owner, "epsilon", epsilon, low=0)
    return number or 1e-7


def is_on(owner: str, argument: str, value: Any) -> bool:
    """Return whether a hyperparameter such as momentum is used: a function, a Variable or a number above 0.

    Raises:
        InvalidArgumentError: a number outside 0 to 1.
    """
    if callable(value) or isinstance(value, Variable):
        return True
    return within(owner, argument, value, 0, 1) > 0
