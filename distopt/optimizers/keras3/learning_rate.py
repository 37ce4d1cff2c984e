"""The learning rate of the Keras 3 family: a number, a schedule or a function."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distopt.arguments import evaluated, finite
from distopt.optimizers.common.hyperparameter import Hyperparameter
from distopt.optimizers.schedules import LearningRateSchedule
from distopt.optimizers.schedules.serialization import serialize
from distopt.variables.variable import Variable


class LearningRate:
    """The learning rate of one optimizer, and its source: a number, a schedule or a function.

    Args:
        owner: the optimizer's class, for messages.
        value: a number, which becomes a float32 Variable; a schedule; or a function without arguments.
        is_listed: whether the Variable of a number is one of the optimizer's variables.

    Example:
        >>> rate = LearningRate("SGD", 0.5)
        >>> _ = rate.source.assign(0.25)
        >>> rate.config()
        0.25
    """

    def __init__(self, owner: str, value: Any, *, is_listed: bool = True) -> None:
        self._owner, self._is_listed = owner, is_listed
        self.source: Any = None
        """The source: a Variable, a schedule or a function."""
        self.of_step: Any = None
        """The value that was evaluated for the current step."""
        self.set(value)

    def set(self, value: Any) -> None:
        """Use a number, a schedule or a function from now on; a number after a number goes into the same Variable."""
        if callable(value):
            self.source = value
            return
        number = finite(self._owner, "learning_rate", value)
        if isinstance(self.source, Variable):
            self.source.assign(np.float32(number))
        else:
            self.source = Hyperparameter(number, "learning_rate")

    def use(self, source: Any) -> None:
        """Use a Variable as the source, or what else ``set`` takes."""
        if isinstance(source, Variable):
            self.source = source
        else:
            self.set(source)

    def replace(self, value: Any, name: str) -> None:
        """Set the learning rate of the optimizer ``name``, but never a number in place of a schedule or a function.

        Raises:
            TypeError: a number would replace a schedule or a function.
        """
        if callable(self.source) and not callable(value):
            raise TypeError(
                f"the learning rate of {name!r} is a schedule or a function, and a number is not settable "
                "over it: set another schedule or function, or make the optimizer with a number"
            )
        self.set(value)

    @property
    def variables(self) -> list[Variable]:
        """Return a list with the Variable of a number; an empty list for a schedule or a function."""
        return [self.source] if self._is_listed and isinstance(self.source, Variable) else []

    def evaluate(self, name: str, calls: Variable) -> float:
        """Evaluate the learning rate, once, for the step after ``calls`` calls of the optimizer ``name``.

        Returns:
            The value as a float.

        Raises:
            InvalidArgumentError: the value is no finite number.
        """
        self.of_step = rate = self.at(calls)
        if not isinstance(self.source, Variable):
            return evaluated(name, int(calls), "learning_rate", rate)
        number = float(rate)
        return number if math.isfinite(number) else finite(name, "learning_rate", number)

    def adopt(self, name: str, calls: Variable, rate: Any) -> float:
        """Take what the user has computed for the step after ``calls`` calls of the optimizer ``name``.

        Returns:
            The value as a float.

        Raises:
            InvalidArgumentError: the value is no finite number.
        """
        self.of_step = rate.storage.array[()] if isinstance(rate, Variable) else rate
        return evaluated(name, int(calls), "learning_rate", self.of_step)

    def at(self, calls: Variable) -> Any:
        """Return the value after ``calls`` calls of the optimizer."""
        rate = self.source
        if isinstance(rate, Variable):
            return rate.storage.array[()]
        return rate(int(calls)) if isinstance(rate, LearningRateSchedule) else rate()

    def config(self) -> Any:
        """Return the learning rate for a config: a number, a schedule as a dictionary, or the function itself."""
        rate = self.source
        if isinstance(rate, Variable):
            return float(rate)
        return serialize(rate) if isinstance(rate, LearningRateSchedule) else rate
