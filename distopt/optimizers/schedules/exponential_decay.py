"""ExponentialDecay."""

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


class ExponentialDecay(LearningRateSchedule):
    """Multiply the learning rate by ``decay_rate`` every ``decay_steps`` steps.

    ``initial_learning_rate * decay_rate ** (step / decay_steps)``, without an end.

    Args:
        initial_learning_rate: the rate at step 0; a scalar, its dtype is the dtype of the result.
        decay_steps: a number > 0.
        decay_rate: a number >= 0.
        staircase: round ``step / decay_steps`` down, so that the rate falls in stairs.
        name: a name for the user's own use.

    Raises:
        InvalidArgumentError: an argument is not a finite number in its range.

    Example:
        >>> schedule = ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5)
        >>> [round(float(schedule(step)), 4) for step in (0, 10, 15)]
        [0.1, 0.05, 0.0354]

    Source: Keras 3, ``keras.optimizers.schedules.ExponentialDecay``.
    """

    def __init__(
        self,
        initial_learning_rate: Any,
        decay_steps: Any,
        decay_rate: Any,
        staircase: bool = False,
        name: str = "ExponentialDecay",
    ) -> None:
        self.initial_learning_rate = learning_rate(name, initial_learning_rate)
        self.decay_steps = positive_number(name, "decay_steps", decay_steps)
        self.decay_rate = number_at_least(name, "decay_rate", decay_rate, 0)
        self.staircase = staircase
        self.name = name

    def __call__(self, step: Any) -> np.floating[Any]:
        """Return the learning rate of ``step``."""
        periods = step_number(step) / self.decay_steps
        if self.staircase:
            periods = math.floor(periods)
        rate = float(self.initial_learning_rate) * self.decay_rate**periods
        return self.initial_learning_rate.dtype.type(rate)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of this schedule."""
        return {
            "initial_learning_rate": config_value(self.initial_learning_rate),
            "decay_steps": self.decay_steps,
            "decay_rate": self.decay_rate,
            "staircase": self.staircase,
            "name": self.name,
        }
