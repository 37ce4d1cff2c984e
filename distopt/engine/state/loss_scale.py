"""Loss scaling: gradients of a loss that was multiplied, so that those of 16 bits do not vanish."""

from __future__ import annotations

import numpy as np

from distopt.variables.variable import Variable

_LARGEST = float(np.finfo(np.float32).max)


class LossScale:
    """A number that the loss was multiplied by, and aggregated gradients are divided by.

    Args:
        factor: the number.
        growth_steps: a dynamic scale doubles after so many steps in a row with finite gradients, and halves, the step
            being left out, when the sum of the gradients is not finite; None: it stays.
        least: a dynamic scale does not become smaller.
    """

    def __init__(self, factor: float, growth_steps: int | None = None, least: float = 0.0) -> None:
        self.growth_steps, self._least = growth_steps, least
        self.step_counter = Variable(np.int64(0), name="step_counter", trainable=False)
        self.scale = Variable(np.float32(factor), name="dynamic_scale", trainable=False)

    @property
    def factor(self) -> float:
        """The number, as it is now."""
        return float(self.scale.storage.array)

    @property
    def is_dynamic(self) -> bool:
        """Return whether the scale follows the gradients."""
        return self.growth_steps is not None

    def note(self, *, is_finite: bool) -> None:
        """Follow the gradients of one step."""
        if self.growth_steps is None:
            return
        if not is_finite:
            self.step_counter.storage.array[...] = 0
            self.scale.storage.array[...] = max(self.factor / 2, self._least)
        elif int(self.step_counter.storage.array) < self.growth_steps - 1:
            self.step_counter.storage.array += 1
        else:
            self.step_counter.storage.array[...] = 0
            if self.factor <= _LARGEST / 2:
                self.scale.storage.array *= 2
