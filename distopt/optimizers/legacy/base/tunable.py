"""Hyperparameters of the legacy family as attributes of the optimizer, evaluated once per step and dtype."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from distopt.arguments import evaluated, finite, real, within
from distopt.engine.state.options import StepOptions
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.attributes import as_constructed, warn_of_misspelt
from distopt.optimizers.common.shown import as_call
from distopt.optimizers.legacy.base.hooks import BEFORE_SUM, CALLED, MAKERS, NOTED_AT_FIRST
from distopt.optimizers.legacy.base.hyperparameters import (
    ApplyState,
    Hyperparameters,
    cast,
    coefficient_dtype,
    numbers_in,
)
from distopt.optimizers.legacy.base.state import State
from distopt.optimizers.schedules import LearningRateSchedule
from distopt.slabs.listing import Listing
from distopt.variables.variable import DEVICE, Variable

_LABELS = {"lr_t": "learning_rate"}


class Tunable(State):
    """An optimizer whose hyperparameters can be read and set at any time; not for users.

    A number becomes a float32 scalar Variable at its first use, and reading the attribute returns that Variable:
    ``optimizer.learning_rate.assign(0.1)`` and ``optimizer.learning_rate *= 0.5`` work. A schedule is returned as it
    is, a function as its value.

    Args:
        name: the optimizer's name.
        options: the options that the user has given.
        decay: d; the learning rate is ``lr / (1 + d t)`` after t steps.
    """

    _distopt_arguments: ClassVar[tuple[str, ...]] = ()
    """The constructor's arguments beyond those of the base class; they are also hyperparameters or attributes."""
    _distopt_fractions: ClassVar[tuple[str, ...]] = ()
    """Hyperparameters that lie between 0 and 1."""

    def __init__(self, name: str, options: StepOptions, decay: float) -> None:
        self._hyper = Hyperparameters()
        super().__init__(name, options)
        self._initial_decay = decay
        self._distopt_apply_state: ApplyState = {}

    def _distopt_begin_probe(self, name: str) -> None:
        """Make no more than a constructor needs whose checks are asked for."""
        self._hyper, self._name, self._initial_decay = Hyperparameters(), name, 0.0

    def __getattr__(self, name: str) -> Any:
        hyper = self.__dict__.get("_hyper", {})
        name = "learning_rate" if name == "lr" else name
        if name in hyper:
            return self._get_hyper(name)
        return object.__getattribute__(self, name)  # raises, what a property of the user's has raised too

    def __setattr__(self, name: str, value: Any) -> None:
        name = "learning_rate" if name == "lr" else name
        if name in self.__dict__.get("_hyper", {}):
            self._set_hyper(name, value)
        else:
            if name in self._distopt_arguments and name in self.__dict__:
                value = as_constructed(self, name, value)
            if name in CALLED:
                self._distopt_note_hook(name)
            if name[0] != "_":
                warn_of_misspelt(self, name)
            object.__setattr__(self, name, value)
            if not name.startswith("_") and "_distopt_engine" in self.__dict__:
                self._distopt_engine.note_changed_options()  # it may be one, such as ``amsgrad``

    def _distopt_note_hook(self, name: str) -> None:
        """Note that a method is the user's: it was set on the optimizer itself."""
        if name in NOTED_AT_FIRST:
            raise InvalidArgumentError(
                f"{name} was set on the optimizer {self._name!r}, which has looked for it when it was made: override "
                "it in a class"
            )
        self._distopt_hooks = self._distopt_hooks | {name}
        self._distopt_sees_own_gradients |= name in BEFORE_SUM

    def __repr__(self) -> str:
        return as_call(self, self._distopt_shown)

    def _distopt_shown(self) -> dict[str, Any]:
        """Return the arguments as they are: a function is not called."""
        limits = {name: getattr(self, name) for name in ("clipvalue", "clipnorm", "global_clipnorm")}
        names = [name for name in self._distopt_arguments if name != "decay" or self._initial_decay]
        own = {name: self._hyper[name] if name in self._hyper else self._distopt_argument(name) for name in names}
        return {"name": self.name} | own | limits

    def __dir__(self) -> list[str]:
        hyper = self.__dict__.get("_hyper", {})
        return sorted({*super().__dir__(), *hyper, *(["lr"] if "learning_rate" in hyper else [])})

    def _set_hyper(self, name: str, value: Any) -> None:
        """Set a hyperparameter: a number, a schedule, or a function without arguments."""
        if not callable(value) and not isinstance(value, Variable):
            value = self._distopt_checked(name, value)
        self._hyper.put(name, value, self._name)

    def _distopt_checked(self, name: str, value: Any) -> float:
        owner = type(self).__name__
        if isinstance(value, bool | int) and name not in self._distopt_arguments:
            return value  # a switch or a count of the user's, in the config too until it becomes a Variable
        if name in self._distopt_fractions:
            return within(owner, name, value, 0, 1)
        return (finite if name == "learning_rate" else real)(owner, name, value)

    def _distopt_evaluated(self, name: str, value: Any) -> float:
        return evaluated(self._name, 0 if self._distopt_counter is None else int(self._distopt_counter), name, value)

    def _get_hyper(self, name: str, dtype: Any = None) -> Any:
        """Return a hyperparameter: its Variable, schedule or value; with a dtype, its value in that dtype."""
        if not self._hyper.are_variables:
            self._create_hypers()
        value = self._hyper[name]
        if isinstance(value, LearningRateSchedule):
            return value
        if callable(value) and not isinstance(value, Variable):
            value = self._distopt_evaluated(name, value())
        return value if dtype is None else cast(value, dtype)

    def _create_hypers(self) -> None:
        self._hyper.make_variables(self._name)

    @property
    def _hypers_created(self) -> bool:
        return self._hyper.are_variables

    @_hypers_created.setter
    def _hypers_created(self, value: bool) -> None:
        self._hyper.are_variables = bool(value)

    def _decayed_lr(self, var_dtype: Any) -> Any:
        """Return the learning rate of this step: that of the schedule, divided by ``1 + decay t``."""
        rate = self._get_hyper("learning_rate", var_dtype)
        local_step = cast(self.iterations, var_dtype)
        if isinstance(rate, LearningRateSchedule):
            rate = cast(self._distopt_evaluated("learning_rate", rate(local_step)), var_dtype)
        if self._initial_decay > 0:
            one = cast(1, var_dtype)
            rate = rate / (one + cast(self._initial_decay, var_dtype) * local_step)
        return rate

    def _prepare(self, var_list: list[Variable]) -> ApplyState:
        """Evaluate the numbers that the update needs, once for each (device, dtype)."""
        state: ApplyState = {}
        for dtype in dict.fromkeys([variable.storage.array.dtype for variable in var_list]):
            state[DEVICE, dtype] = {}
            self._prepare_local(DEVICE, dtype, state)
        return state

    def _prepare_local(self, var_device: str, var_dtype: Any, apply_state: ApplyState) -> None:
        """Add the numbers that the update of one (device, dtype) needs; override this method to add your own."""
        hyper, local = self._hyper, apply_state[var_device, var_dtype]
        if "learning_rate" in hyper:
            local["lr_t"] = self._decayed_lr(var_dtype)
        for name in self._distopt_arguments:
            if name in hyper and name not in ("learning_rate", "decay"):
                local[name] = self._get_hyper(name, coefficient_dtype(var_dtype))

    def _fallback_apply_state(self, var_device: str, var_dtype: Any) -> dict[str, Any]:
        """Evaluate the numbers of one (device, dtype), for an update that was called without ``apply_state``."""
        state: ApplyState = {(var_device, var_dtype): {}}
        self._prepare_local(var_device, var_dtype, state)
        return state[var_device, var_dtype]

    def _distopt_argument(self, name: str) -> Any:
        """Return one of ``_distopt_arguments`` as JSON can hold it."""
        if name == "decay":
            return self._initial_decay
        return self._serialize_hyperparameter(name) if name in self._hyper else getattr(self, name)

    def _serialize_hyperparameter(self, hyperparameter_name: str) -> Any:
        """Return a hyperparameter as JSON can hold it; a function as its current value."""
        return self._hyper.config_of(hyperparameter_name)

    def _distopt_evaluate_hyperparameters(self, listing: Listing) -> dict[str, float]:
        self._distopt_refuse_twins(listing)
        if not self._hyper.are_variables:
            self._create_hypers()
        if "iterations" in self._distopt_hooks:
            self._distopt_engine.training.count_with(self.iterations)
        is_users = not self._distopt_hooks.isdisjoint(MAKERS)
        self._distopt_apply_state = self._prepare(self._distopt_given if is_users else listing.variables)
        values = {}
        for name, label, value in self._distopt_numbers():
            values[label] = value
            is_rate = name in _LABELS
            if (is_rate or name in self._hyper) and (math.isnan(value) or (math.isinf(value) and is_rate)):
                raise InvalidArgumentError(
                    f"hyperparameter {label} of {self._name!r} is {value} in step {int(self.iterations)}: check the "
                    "number, schedule or function that it comes from"
                )
        return values | self._distopt_engine.options.agreed

    def _distopt_numbers(self) -> list[tuple[str, str, float]]:
        """Return the numbers in ``apply_state`` that replicas must share, with labels; those of the user's, all."""
        numbers, state = [], self._distopt_apply_state
        for key, local in state.items() if isinstance(state, dict) else ():
            if isinstance(key, tuple) and len(key) == 2 and isinstance(local, dict):
                if not self._distopt_evaluates:  # what a built-in optimizer derives follows from these
                    local = {name: local[name] for name in local if name in self._hyper or name in _LABELS}
                dtype = getattr(key[1], "name", key[1])
                found = numbers_in(local).items()
                numbers += [(name, f"{_LABELS.get(name, name)} ({dtype})", number) for name, number in found]
        return numbers

    def _distopt_sources(self) -> dict[str, Any]:
        self._create_hypers()
        return dict(self._hyper)
