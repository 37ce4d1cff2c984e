"""PiecewiseConstantDecay."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.errors import InvalidArgumentError
from distopt.optimizers.schedules.schedule import (
    LearningRateSchedule,
    config_value,
    learning_rate,
    real_number,
    step_number,
)


class PiecewiseConstantDecay(LearningRateSchedule):
    """Hold one learning rate after the other.

    ``values[0]`` up to and with step ``boundaries[0]``, then ``values[1]`` up to and with ``boundaries[1]``, and so
    on; after the last boundary ``values[-1]``.

    Args:
        boundaries: n numbers that do not fall.
        values: the n + 1 rates; the dtype of the first is the dtype of the result.
        name: a name for the user's own use.

    Raises:
        InvalidArgumentError: the lengths do not fit, the boundaries fall, or something is not a finite number.

    Example:
        >>> schedule = PiecewiseConstantDecay([10, 20], [1.0, 0.5, 0.1])
        >>> [round(float(schedule(step)), 4) for step in (0, 10, 11, 20, 21)]
        [1.0, 1.0, 0.5, 0.5, 0.1]

    Source: Keras 3, ``keras.optimizers.schedules.PiecewiseConstantDecay``; there boundaries out of order are taken,
    and rates of pieces that overlap are added.
    """

    def __init__(self, boundaries: Sequence[Any], values: Sequence[Any], name: str = "PiecewiseConstant") -> None:
        if len(values) != len(boundaries) + 1:
            raise InvalidArgumentError(
                f"{name}: {len(boundaries)} boundaries part {len(boundaries) + 1} values, received {len(values)}: "
                f"boundaries={boundaries!r}, values={values!r}."
            )
        self.boundaries = [real_number(name, "each of boundaries", boundary) for boundary in boundaries]
        if self.boundaries != sorted(self.boundaries):
            raise InvalidArgumentError(f"{name}: boundaries must be in order, received {boundaries!r}: sort them.")
        first = learning_rate(name, values[0], "each of values")
        self.values = [first.dtype.type(learning_rate(name, value, "each of values")) for value in values]
        self.name = name

    def __call__(self, step: Any) -> np.floating[Any]:
        """Return the learning rate of ``step``."""
        return self.values[bisect_left(self.boundaries, step_number(step))]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of this schedule."""
        return {
            "boundaries": list(self.boundaries),
            "values": [config_value(value) for value in self.values],
            "name": self.name,
        }
