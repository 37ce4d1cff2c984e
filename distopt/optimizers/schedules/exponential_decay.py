"""ExponentialDecay."""

from __future__ import annotations

from distopt.optimizers.schedules.periodic_decay import PeriodicDecay


class ExponentialDecay(PeriodicDecay):
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

    def _after(self, rate: float, periods: float) -> float:
        return float(rate * self.decay_rate**periods)
