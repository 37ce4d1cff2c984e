"""CosineDecayRestarts."""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext
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

_EXACT = Context(prec=60)
"""Digits enough for every sum of periods that is a whole number of steps; more would only cost time."""


class CosineDecayRestarts(LearningRateSchedule):
    """Fall along half a cosine wave, start again at the top, and so on: warm restarts.

    Period k (from 0) is ``first_decay_steps * t_mul ** k`` steps long, and f is the part of it that is over:
    ``initial_learning_rate * ((1 - alpha) * m_mul ** k * (1 + cos(pi * f)) / 2 + alpha)``.
    A period's first step is a full restart. With ``t_mul < 1`` the periods end together at
    ``first_decay_steps / (1 - t_mul)``; from there the rate stays at its least, ``alpha * initial_learning_rate``.

    Args:
        initial_learning_rate: the rate at step 0; a scalar, its dtype is the dtype of the result.
        first_decay_steps: a number > 0.
        t_mul: the factor by which each period is longer than the last one; a number > 0.
        m_mul: the factor by which each period begins higher than the last one; a number >= 0.
        alpha: the least rate as a fraction of ``initial_learning_rate``; ``m_mul`` does not act on it.
        name: a name for the user's own use.

    Raises:
        InvalidArgumentError: an argument is not a finite number in its range.

    Example:
        >>> schedule = CosineDecayRestarts(1.0, first_decay_steps=10, m_mul=0.5)
        >>> [round(float(schedule(step)), 4) for step in (0, 9, 10, 20, 29, 30)]
        [1.0, 0.0245, 0.5, 0.25, 0.0031, 0.25]

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017); arguments of
    Keras 3, ``keras.optimizers.schedules.CosineDecayRestarts``. Keras finds k by a float32 logarithm and can miss a
    restart by a step; here k is found in decimal arithmetic, from the numbers as they were written (1.1 is eleven
    tenths). Keras gives NaN after the end of all periods.
    """

    def __init__(
        self,
        initial_learning_rate: Any,
        first_decay_steps: Any,
        t_mul: Any = 2.0,
        m_mul: Any = 1.0,
        alpha: Any = 0.0,
        name: str = "SGDRDecay",
    ) -> None:
        self.initial_learning_rate = learning_rate(name, initial_learning_rate)
        self.first_decay_steps = positive_number(name, "first_decay_steps", first_decay_steps)
        self.t_mul = positive_number(name, "t_mul", t_mul)
        self.m_mul = number_at_least(name, "m_mul", m_mul, 0)
        self.alpha = real_number(name, "alpha", alpha)
        self.name = name

    def __call__(self, step: Any) -> np.floating[Any]:
        """Return the learning rate of ``step``."""
        period = self._period(Decimal(step_number(step)))
        wave = 0.0
        if period is not None:
            restarts, fraction = period
            wave = float(self.m_mul) ** restarts * 0.5 * (1 + math.cos(math.pi * fraction))
        rate = float(self.initial_learning_rate) * ((1 - self.alpha) * wave + self.alpha)
        return self.initial_learning_rate.dtype.type(rate)

    def _period(self, step: Decimal) -> tuple[int, float] | None:
        """Return the number of restarts before ``step`` and the past part of its period; None after all periods."""
        with localcontext(_EXACT):
            first, growth = Decimal(str(self.first_decay_steps)), Decimal(str(self.t_mul))
            if growth == 1:
                return int(step // first), float(step % first / first)
            now = first + step * (growth - 1)  # at restart k this is the length of period k
            if now <= 0:
                return None

            def over(k: int) -> Decimal:
                length = first * growth**k
                return (now - length) / (length * (growth - 1))

            restarts = int((now / first).ln() / growth.ln()) + 1  # the logarithms are rounded: not too small
            while over(restarts) < 0:
                restarts -= 1
            return restarts, float(over(restarts))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of this schedule."""
        return {
            "initial_learning_rate": config_value(self.initial_learning_rate),
            "first_decay_steps": self.first_decay_steps,
            "t_mul": self.t_mul,
            "m_mul": self.m_mul,
            "alpha": self.alpha,
            "name": self.name,
        }
