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
        self._skipped_at_end, self._has_told = 0, False
        self.step_counter = Variable(np.int64(0), name="step_counter", trainable=False)
        self.scale = Variable(np.float32(factor), name="dynamic_scale", trainable=False)

    def grow_after(self, steps: int) -> None:
        """Let a dynamic scale double after so many steps from now on."""
        self.growth_steps = steps

    @property
    def factor(self) -> float:
        """The number, as it is now."""
        return float(self.scale.storage.array)

    @property
    def is_dynamic(self) -> bool:
        """Return whether the scale follows the gradients."""
        return self.growth_steps is not None

    @property
    def is_at_end(self) -> bool:
        """Return whether a smaller scale would not help: gradients of the loss itself are not finite, or do not fit."""
        return self.is_dynamic and self.factor <= max(self._least, 1.0)

    def tells_of_end(self) -> bool:
        """Return whether to say, once, that step after step is left out although the scale has reached its end."""
        tells = self._skipped_at_end > 1 and not self._has_told
        self._has_told = self._has_told or tells
        return tells

    def note(self, *, is_finite: bool) -> None:
        """Follow the gradients of one step."""
        if self.growth_steps is None:
            return
        self._skipped_at_end = self._skipped_at_end + 1 if self.is_at_end and not is_finite else 0
        if not is_finite:
            self.step_counter.storage.array[...] = 0
            self.scale.storage.array[...] = max(self.factor / 2, self._least)
        elif int(self.step_counter.storage.array) < self.growth_steps - 1:
            self.step_counter.storage.array += 1
        else:
            self.step_counter.storage.array[...] = 0
            if self.factor <= _LARGEST / 2:
                self.scale.storage.array *= 2
