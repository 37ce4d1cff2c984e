"""The base of ExponentialDecay and InverseTimeDecay: a rate that falls from period to period, evenly or in stairs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distopt.optimizers.schedules.schedule import (
    LearningRateSchedule,
    config_value,
    learning_rate,
    number_at_least,
    positive_number,
    step_number,
)


class PeriodicDecay(LearningRateSchedule):
    """The base of ExponentialDecay and InverseTimeDecay; not for users."""

    def __init__(
        self,
        initial_learning_rate: Any,
        decay_steps: Any,
        decay_rate: Any,
        staircase: bool = False,
        name: str | None = None,
    ) -> None:
        self.name = type(self).__name__ if name is None else name
        self.initial_learning_rate = learning_rate(self.name, initial_learning_rate)
        self.decay_steps = positive_number(self.name, "decay_steps", decay_steps)
        self.decay_rate = number_at_least(self.name, "decay_rate", decay_rate, 0)
        self.staircase = staircase

    def _after(self, rate: float, periods: float) -> float:
        """Return the rate after a number of periods, which need not be whole."""
        raise NotImplementedError

    def __call__(self, step: Any) -> np.floating[Any]:
        """Return the learning rate of ``step``."""
        periods = step_number(step) / self.decay_steps
        if self.staircase:
            periods = math.floor(periods)
        rate: np.floating[Any] = self.initial_learning_rate.dtype.type(
            self._after(float(self.initial_learning_rate), periods)
        )
        return rate

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of this schedule."""
        return {
            "initial_learning_rate": config_value(self.initial_learning_rate),
            "decay_steps": self.decay_steps,
            "decay_rate": self.decay_rate,
            "staircase": self.staircase,
            "name": self.name,
        }
