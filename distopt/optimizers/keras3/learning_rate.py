"""The learning rate of the Keras 3 family: a number, a schedule or a function."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.arguments import finite
from distopt.optimizers.common.hyperparameter import Hyperparameter
from distopt.optimizers.schedules import LearningRateSchedule
from distopt.optimizers.schedules.serialization import serialize
from distopt.variables.variable import Variable


class LearningRate:
    """The part of the Keras 3 optimizer that holds the learning rate.

    A number becomes a float32 Variable: ``optimizer.learning_rate.assign(0.1)`` and
    ``optimizer.learning_rate *= 0.5`` work.
    """

    name: str
    _step_counter: Variable
    _learning_rate: Any = None

    @property
    def learning_rate(self) -> Any:
        """The current learning rate: a Variable; or the value of the schedule or function."""
        return self._learning_rate if isinstance(self._learning_rate, Variable) else self._current_learning_rate()

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if callable(self._learning_rate) and not callable(value):
            raise TypeError(
                f"the learning rate of {self.name!r} is a schedule or a function, and a number is not settable "
                "over it: set another schedule or function, or make the optimizer with a number"
            )
        self._set_learning_rate(value)

    @property
    def lr(self) -> Any:
        """Not there: in this family it is called ``learning_rate``, and a new attribute would change nothing."""
        raise AttributeError(f"{type(self).__name__} has no lr: it is called learning_rate")

    @lr.setter
    def lr(self, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} has no lr: set learning_rate = {value!r}")

    def _set_learning_rate(self, value: Any) -> None:
        if callable(value):
            self._learning_rate = value
            return
        number = finite(type(self).__name__, "learning_rate", value)
        if isinstance(self._learning_rate, Variable):
            self._learning_rate.assign(np.float32(number))
        else:
            self._learning_rate = Hyperparameter(number, "learning_rate")

    def _current_learning_rate(self) -> Any:
        rate = self._learning_rate
        if isinstance(rate, Variable):
            return rate.storage.array[()]
        return rate(int(self._step_counter)) if isinstance(rate, LearningRateSchedule) else rate()

    def _learning_rate_config(self) -> Any:
        rate = self._learning_rate
        if isinstance(rate, Variable):
            return float(rate)
        return serialize(rate) if isinstance(rate, LearningRateSchedule) else rate
