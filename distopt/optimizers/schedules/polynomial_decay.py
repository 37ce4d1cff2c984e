"""PolynomialDecay."""

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
    real_number,
    step_number,
)


class PolynomialDecay(LearningRateSchedule):
    """Go from one learning rate to another along a power of the remaining time.

    ``(initial - end) * (1 - p) ** power + end`` with ``p = min(step, decay_steps) / decay_steps``.
    With ``cycle`` the rate starts again instead of staying at the end, each time over a longer stretch:
    ``p = step / (decay_steps * ceil(step / decay_steps))``. A step that is a multiple of ``decay_steps`` has
    the end rate; the next one starts again.

    Args:
        initial_learning_rate: the rate at step 0; a scalar, its dtype is the dtype of the result.
        decay_steps: a number > 0.
        end_learning_rate: the rate at ``decay_steps``.
        power: a number >= 0; 1 is a straight line.
        cycle: start again after ``decay_steps``.
        name: a name for the user's own use.

    Raises:
        InvalidArgumentError: an argument is not a finite number in its range.

    Example:
        >>> schedule = PolynomialDecay(0.1, decay_steps=10, end_learning_rate=0.01)
        >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 99)]
        [0.1, 0.055, 0.01, 0.01]

    Source: Keras 3, ``keras.optimizers.schedules.PolynomialDecay``.
    """

    def __init__(
        self,
        initial_learning_rate: Any,
        decay_steps: Any,
        end_learning_rate: Any = 0.0001,
        power: Any = 1.0,
        cycle: bool = False,
        name: str = "PolynomialDecay",
    ) -> None:
        self.initial_learning_rate = learning_rate(name, initial_learning_rate)
        self.decay_steps = positive_number(name, "decay_steps", decay_steps)
        self.end_learning_rate = real_number(name, "end_learning_rate", end_learning_rate)
        self.power = number_at_least(name, "power", power, 0)
        self.cycle = cycle
        self.name = name

    def __call__(self, step: Any) -> np.floating[Any]:
        """Return the learning rate of ``step``."""
        number = step_number(step)
        if self.cycle:
            progress = number / (self.decay_steps * max(1, math.ceil(number / self.decay_steps)))
        else:
            progress = min(number, self.decay_steps) / self.decay_steps
        start, end = float(self.initial_learning_rate), self.end_learning_rate
        return self.initial_learning_rate.dtype.type((start - end) * (1 - progress) ** self.power + end)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of this schedule."""
        return {
            "initial_learning_rate": config_value(self.initial_learning_rate),
            "decay_steps": self.decay_steps,
            "end_learning_rate": self.end_learning_rate,
            "power": self.power,
            "cycle": self.cycle,
            "name": self.name,
        }
