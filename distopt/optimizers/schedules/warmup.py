"""Warmup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from distopt.optimizers.schedules.schedule import (
    LearningRateSchedule,
    config_value,
    learning_rate,
    number_at_least,
    real_number,
)
from distopt.optimizers.schedules.serialization import deserialize, serialize


class Warmup(LearningRateSchedule):
    """Rise in a straight line to the first rate of a schedule, then follow the schedule from its step 0.

    ``start + (schedule(0) - start) * step / warmup_steps`` before step ``warmup_steps``, then
    ``schedule(step - warmup_steps)``.

    Args:
        schedule: a schedule, or a number for a constant rate.
        warmup_steps: a number >= 0.
        start: the rate at step 0.
        name: a name for the user's own use.

    Raises:
        InvalidArgumentError: an argument is not a finite number in its range.

    Example:
        >>> schedule = Warmup(0.1, warmup_steps=4)
        >>> [round(float(schedule(step)), 4) for step in (0, 1, 4, 99)]
        [0.0, 0.025, 0.1, 0.1]

    Source: Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.2, gradual warm-up. In Keras 3 only
    ``CosineDecay`` has a warm-up; ``Warmup(CosineDecay(target, n), k, start)`` is the same as its own.
    """

    def __init__(self, schedule: Any, warmup_steps: Any, start: Any = 0.0, name: str = "Warmup") -> None:
        is_number = not isinstance(schedule, LearningRateSchedule)
        self.schedule = learning_rate(name, schedule, "schedule") if is_number else schedule
        self.warmup_steps = number_at_least(name, "warmup_steps", warmup_steps, 0)
        self.start = real_number(name, "start", start)
        self.name = name

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of ``step``."""
        number = np.asarray(step)[()]  # an int stays one
        if number >= self.warmup_steps:
            return self._after(number - self.warmup_steps)
        peak = self._after(0)
        rate = self.start + (float(peak) - self.start) * number / self.warmup_steps
        return peak.dtype.type(rate) if isinstance(peak, np.generic) else rate

    def _after(self, step: Any) -> Any:
        return self.schedule(step) if isinstance(self.schedule, LearningRateSchedule) else self.schedule

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of this schedule, the schedule in it as a dictionary."""
        inner = self.schedule
        return {
            "schedule": serialize(inner) if isinstance(inner, LearningRateSchedule) else config_value(inner),
            "warmup_steps": self.warmup_steps,
            "start": self.start,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a schedule from what ``get_config`` returned."""
        inner = config["schedule"]
        is_schedule = isinstance(inner, Mapping) and "registered_name" in inner
        return cls(**config | {"schedule": deserialize(inner) if is_schedule else inner})
