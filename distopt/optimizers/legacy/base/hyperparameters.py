"""Hyperparameters of the legacy family: attributes that are numbers, schedules or functions, settable at any time."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from distopt.arguments import evaluated, finite, real, within
from distopt.arrays import to_dtype
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.hyperparameter import Hyperparameter
from distopt.optimizers.schedules import LearningRateSchedule
from distopt.optimizers.schedules.serialization import serialize
from distopt.variables.variable import Variable

ApplyState = dict[tuple[str, np.dtype[Any]], dict[str, Any]]


class Hyperparameters:
    """The part of the legacy optimizer that holds hyperparameters and evaluates them, once per step and dtype.

    A number becomes a float32 scalar Variable at its first use, and reading the attribute returns that Variable:
    ``optimizer.learning_rate.assign(0.1)`` and ``optimizer.learning_rate *= 0.5`` work. A schedule is returned as it
    is, a function as its value.
    """

    _name: str
    _initial_decay: float
    iterations: Variable
    _counter: Variable | None
    _arguments: ClassVar[tuple[str, ...]] = ()
    """The constructor's arguments beyond those of the base class, hyperparameters or attributes of the same names."""
    _fractions: ClassVar[tuple[str, ...]] = ()
    """Hyperparameters that lie between 0 and 1."""

    def __init__(self) -> None:
        object.__setattr__(self, "_hyper", {})
        self._hypers_created = False

    def __getattr__(self, name: str) -> Any:
        hyper = self.__dict__.get("_hyper", {})
        name = "learning_rate" if name == "lr" else name
        if name in hyper:
            return self._get_hyper(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        name = "learning_rate" if name == "lr" else name
        if name in self.__dict__.get("_hyper", {}):
            self._set_hyper(name, value)
        else:
            object.__setattr__(self, name, value)

    def __dir__(self) -> list[str]:
        hyper = self.__dict__.get("_hyper", {})
        return sorted({*super().__dir__(), *hyper, *(["lr"] if "learning_rate" in hyper else [])})

    def _set_hyper(self, name: str, value: Any) -> None:
        """Set a hyperparameter: a number, a schedule, or a function without arguments."""
        hyper = self.__dict__["_hyper"]
        if not callable(value) or isinstance(value, Variable):
            value = value if isinstance(value, Variable) else self._checked(name, value)
            if isinstance(hyper.get(name), Variable):
                hyper[name].assign(np.float32(value))
                return
            if self._hypers_created:
                value = Hyperparameter(value, f"{self._name}/{name}")
        hyper[name] = value

    def _checked(self, name: str, value: Any) -> float:
        owner = type(self).__name__
        if name in self._fractions:
            return within(owner, name, value, 0, 1)
        return (finite if name == "learning_rate" else real)(owner, name, value)

    def _evaluated(self, name: str, value: Any) -> float:
        return evaluated(self._name, 0 if self._counter is None else int(self._counter), name, value)

    def _get_hyper(self, name: str, dtype: Any = None) -> Any:
        """Return a hyperparameter: its Variable, schedule or value; with a dtype, a NumPy scalar of it."""
        self._create_hypers()
        value = self.__dict__["_hyper"][name]
        if isinstance(value, LearningRateSchedule):
            return value
        if callable(value) and not isinstance(value, Variable):
            value = self._evaluated(name, value())
        return value if dtype is None else _cast(value, dtype)

    def _create_hypers(self) -> None:
        if self._hypers_created:
            return
        self._hypers_created = True
        hyper = self.__dict__["_hyper"]
        for name in sorted(hyper):
            if not callable(hyper[name]) and not isinstance(hyper[name], Variable):
                hyper[name] = Hyperparameter(hyper[name], f"{self._name}/{name}")

    def _decayed_lr(self, var_dtype: Any) -> Any:
        """Return the learning rate of this step: the schedule's, and ``lr / (1 + decay t)`` on top of it."""
        rate = self._get_hyper("learning_rate", var_dtype)
        local_step = _cast(self.iterations, var_dtype)
        if isinstance(rate, LearningRateSchedule):
            rate = _cast(self._evaluated("learning_rate", rate(local_step)), var_dtype)
        if self._initial_decay > 0:
            one = _cast(1, var_dtype)
            rate = rate / (one + _cast(self._initial_decay, var_dtype) * local_step)
        return rate

    def _prepare(self, var_list: list[Variable]) -> ApplyState:
        """Evaluate what the update needs, once for each (device, dtype)."""
        state: ApplyState = {}
        for device, dtype in dict.fromkeys((v.device, v.dtype) for v in var_list):
            state[device, dtype] = {}
            self._prepare_local(device, dtype, state)
        return state

    def _prepare_local(self, var_device: str, var_dtype: Any, apply_state: ApplyState) -> None:
        """Add what the update of one (device, dtype) needs; override it to add your own."""
        hyper, local = self.__dict__["_hyper"], apply_state[var_device, var_dtype]
        if "learning_rate" in hyper:
            local["lr_t"] = self._decayed_lr(var_dtype)
        for name in self._arguments:
            if name in hyper and name not in ("learning_rate", "decay"):
                local[name] = self._get_hyper(name, coefficient_dtype(var_dtype))

    def _fallback_apply_state(self, var_device: str, var_dtype: Any) -> dict[str, Any]:
        """Evaluate for one (device, dtype), where an update was called without ``apply_state``."""
        state: ApplyState = {(var_device, var_dtype): {}}
        self._prepare_local(var_device, var_dtype, state)
        return state[var_device, var_dtype]

    def _argument(self, name: str) -> Any:
        """Return one of ``_arguments`` as JSON can hold it."""
        if name == "decay":
            return self._initial_decay
        return self._serialize_hyperparameter(name) if name in self.__dict__["_hyper"] else getattr(self, name)

    def _serialize_hyperparameter(self, hyperparameter_name: str) -> Any:
        """Return a hyperparameter as JSON can hold it; a function as its current value."""
        value = self.__dict__["_hyper"][hyperparameter_name]
        if isinstance(value, LearningRateSchedule):
            return serialize(value)
        return float(value() if callable(value) and not isinstance(value, Variable) else value)


def _cast(value: Any, dtype: Any) -> Any:
    return np.asarray(value.storage.array if isinstance(value, Variable) else value).astype(to_dtype(dtype))[()]


def coefficient_dtype(var_dtype: Any) -> np.dtype[Any]:
    """Return the dtype of all hyperparameters but the learning rate: bfloat16 can't tell 0.999 from 1."""
    return to_dtype("float32" if np.dtype(var_dtype).name == "bfloat16" else var_dtype)


def below_one(owner: str, name: str, beta: Any) -> float:
    """Return the decay of a mean whose bias is corrected by 1 - βᵀ.

    Raises:
        InvalidArgumentError: it is 1 in the dtype that it was cast to.
    """
    if beta == 1:
        raise InvalidArgumentError(
            f"{owner}: {name} is 1 in {beta.dtype.name}, so nothing would be trained: take a smaller one"
        )
    return float(beta)


def as_number(value: Any) -> float | None:
    """Return what ``_prepare_local`` left as a float, where it is one number."""
    if value is None or isinstance(value, (str, bytes)) or np.ndim(value) != 0:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def checked_epsilon(owner: str, epsilon: Any) -> float:
    """Return epsilon; None and 0 mean 1e-7, as upstream."""
    number = 0.0 if epsilon is None else finite(owner, "epsilon", epsilon, low=0)
    return number or 1e-7


def is_on(owner: str, argument: str, value: Any) -> bool:
    """Whether a hyperparameter such as momentum is used: a function, a Variable or a number above 0.

    Raises:
        InvalidArgumentError: a number outside 0 to 1.
    """
    if callable(value) or isinstance(value, Variable):
        return True
    return within(owner, argument, value, 0, 1) > 0
