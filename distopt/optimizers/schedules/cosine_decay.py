"""CosineDecay."""

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


class CosineDecay(LearningRateSchedule):
    """Fall along half a cosine wave, after an optional linear warm-up.

    ``rate(peak, s) = peak * ((1 - alpha) * (1 + cos(pi * s / decay_steps)) / 2 + alpha)`` with
    ``s = min(step, decay_steps)`` and ``peak = initial_learning_rate``.
    With ``warmup_target`` the rate goes in a straight line from ``initial_learning_rate`` to the target over
    ``warmup_steps`` steps, then from the target as its peak along the cosine over ``decay_steps`` more.
    ``warmup_steps`` without a target has no effect; with a target but no steps the rate starts at the target.

    Args:
        initial_learning_rate: the rate at step 0; a scalar, its dtype is the dtype of the result.
        decay_steps: a number > 0.
        alpha: the last rate as a fraction of the peak.
        name: a name for the user's own use.
        warmup_target: the rate at the end of the warm-up, or None.
        warmup_steps: a number >= 0.

    Raises:
        InvalidArgumentError: an argument is not a finite number in its range.

    Example:
        >>> schedule = CosineDecay(0.0, decay_steps=10, warmup_target=0.1, warmup_steps=5)
        >>> [round(float(schedule(step)), 4) for step in (0, 4, 5, 10, 15)]
        [0.0, 0.08, 0.1, 0.05, 0.0]

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), equation 5
    with one period; arguments of Keras 3, ``keras.optimizers.schedules.CosineDecay``.
    """

    def __init__(
        self,
        initial_learning_rate: Any,
        decay_steps: Any,
        alpha: Any = 0.0,
        name: str = "CosineDecay",
        warmup_target: Any = None,
        warmup_steps: Any = 0,
    ) -> None:
        self.initial_learning_rate = learning_rate(name, initial_learning_rate)
        self.decay_steps = positive_number(name, "decay_steps", decay_steps)
        self.alpha = real_number(name, "alpha", alpha)
        self.name = name
        self.warmup_target = None if warmup_target is None else real_number(name, "warmup_target", warmup_target)
        self.warmup_steps = number_at_least(name, "warmup_steps", warmup_steps, 0)

    def __call__(self, step: Any) -> np.floating[Any]:
        """Return the learning rate of ``step``."""
        number, peak = step_number(step), float(self.initial_learning_rate)
        if self.warmup_target is not None:
            if number < self.warmup_steps:
                rate = peak + (self.warmup_target - peak) * number / self.warmup_steps
                return self.initial_learning_rate.dtype.type(rate)
            number, peak = number - self.warmup_steps, self.warmup_target
        fraction = 0.5 * (1 + math.cos(math.pi * min(number, self.decay_steps) / self.decay_steps))
        return self.initial_learning_rate.dtype.type(peak * ((1 - self.alpha) * fraction + self.alpha))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of this schedule."""
        return {
            "initial_learning_rate": config_value(self.initial_learning_rate),
            "decay_steps": self.decay_steps,
            "alpha": self.alpha,
            "name": self.name,
            "warmup_target": self.warmup_target,
            "warmup_steps": self.warmup_steps,
        }
