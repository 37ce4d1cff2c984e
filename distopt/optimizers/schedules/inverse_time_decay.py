"""InverseTimeDecay."""

from __future__ import annotations

from distopt.optimizers.schedules.periodic_decay import PeriodicDecay


class InverseTimeDecay(PeriodicDecay):
    """Divide the learning rate by a number that grows with the step.

    ``initial_learning_rate / (1 + decay_rate * step / decay_steps)``, without an end.

    Args:
        initial_learning_rate: the rate at step 0; a scalar, its dtype is the dtype of the result.
        decay_steps: a number > 0.
        decay_rate: a number >= 0.
        staircase: round ``step / decay_steps`` down, so that the rate falls in stairs.
        name: a name for the user's own use.

    Raises:
        InvalidArgumentError: an argument is not a finite number in its range.

    Example:
        >>> schedule = InverseTimeDecay(0.1, decay_steps=10, decay_rate=1.0)
        >>> [round(float(schedule(step)), 4) for step in (0, 10, 30)]
        [0.1, 0.05, 0.025]

    Source: Keras 3, ``keras.optimizers.schedules.InverseTimeDecay``.
    """

    def _after(self, rate: float, periods: float) -> float:
        return rate / (1 + self.decay_rate * periods)
