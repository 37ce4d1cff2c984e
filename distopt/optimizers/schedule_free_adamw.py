"""Schedule-free AdamW, Keras 3 family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arguments import BELOW_ONE, finite, within
from distopt.errors import InvalidArgumentError
from distopt.kernels import Array, Rule, Scalar
from distopt.optimizers.keras3.optimizer import Optimizer
from distopt.optimizers.schedules.schedule import number_at_least


def _schedule_free(
    p: Array,
    g: Array,
    z: Array,
    v: Array,
    learning_rate: Scalar,
    beta_1: Scalar,
    one_minus_beta_1: Scalar,
    one_minus_beta_2: Scalar,
    v_correction: Scalar,
    epsilon: Scalar,
    weight: Scalar,
    one_minus_weight: Scalar,
) -> None:
    v += (g * g - v) * one_minus_beta_2
    average = (p - one_minus_beta_1 * z) / beta_1
    z -= learning_rate * g / (np.sqrt(v / v_correction) + epsilon)
    average = one_minus_weight * average + weight * z
    p[...] = one_minus_beta_1 * z + beta_1 * average


SCHEDULE_FREE = Rule(
    name="schedule_free",
    slots=("z", "v"),
    scalars=(
        "learning_rate",
        "beta_1",
        "one_minus_beta_1",
        "one_minus_beta_2",
        "v_correction",
        "epsilon",
        "weight",
        "one_minus_weight",
    ),
    sparse="all",
    reference=_schedule_free,
    body="""\
v += (g * g - v) * one_minus_beta_2
average = (p - one_minus_beta_1 * z) / beta_1
z -= learning_rate * g / (sqrt(v / v_correction) + epsilon)
average = one_minus_weight * average + weight * z
p = one_minus_beta_1 * z + beta_1 * average""",
)


class ScheduleFreeAdamW(Optimizer):
    """AdamW without a schedule: an average of the steps takes the place of the decaying learning rate.

    ``v ← v + (g² - v)(1 - β₂)``, ``x = (w - (1 - β₁) z) / β₁``, ``z ← z - lr g / (√(v / (1 - β₂ᵀ)) + ε)``,
    ``x ← (1 - 1/T) x + z / T``, ``w ← (1 - β₁) z + β₁ x``, T the number of this step from 1. z makes the steps, and
    begins as a copy of w; x is the average of all z; gradients are computed at w, between z and x.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        beta_1: β₁, the weight of x in w: above 0 and at most 1.
        beta_2: β₂, decay of the second moment.
        epsilon: ε, added to the root, taken literally.
        warmup_steps: the number of first steps in which the learning rate grows linearly; 0 or more.
        *options: the arguments of ``Optimizer`` by position, from ``weight_decay``.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: a value out of range, any argument that ``Optimizer`` refuses.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([1.0])
        >>> optimizer = ScheduleFreeAdamW(learning_rate=0.5)
        >>> for _ in range(2):
        ...     _ = optimizer.apply_gradients([([2.0], w)])
        >>> w.numpy().round(4)
        array([0.225], dtype=float32)

    Source: Defazio et al. 2024, as in Keras 3 ``keras.optimizers.ScheduleFreeAdamW`` on JAX: x is computed from
    the old z, before the step (on PyTorch Keras uses the new z, by mistake).
    """

    _distopt_hyperparameters = ("beta_1", "beta_2", "epsilon", "warmup_steps")
    _distopt_slot_lists = (("momentum", "_momentums"), ("velocity", "_velocities"))
    _distopt_second_moments = ("velocity",)

    def __init__(
        self,
        learning_rate: Any = 0.0025,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        warmup_steps: float = 0,
        *options: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, *options, **kwargs)
        self.beta_1 = within("ScheduleFreeAdamW", "beta_1", beta_1, 0, 1)
        if self.beta_1 == 0:
            raise InvalidArgumentError(
                "ScheduleFreeAdamW(beta_1=0): the average could not be found again: expected a number above 0, to 1"
            )
        self.beta_2 = within("ScheduleFreeAdamW", "beta_2", beta_2, 0, BELOW_ONE)
        self.epsilon = finite("ScheduleFreeAdamW", "epsilon", epsilon, low=0)
        self.warmup_steps = number_at_least("ScheduleFreeAdamW", "warmup_steps", warmup_steps, 0)

    def _distopt_make_all_slots(self) -> None:
        super()._distopt_make_all_slots()
        for variable in self._distopt_stepped:
            self._distopt_engine.slots.table[variable, "momentum"].assign(variable)

    def update_rule(self) -> Rule:
        return SCHEDULE_FREE

    def rule_slots(self) -> tuple[str, ...]:
        return "momentum", "velocity"

    def rule_scalars(self, learning_rate: Any) -> Sequence[float]:
        t = self._distopt_step_number
        warmth = min(t / self.warmup_steps, 1) if self.warmup_steps else 1
        return (
            float(learning_rate) * warmth,
            self.beta_1,
            1 - self.beta_1,
            1 - self.beta_2,
            1 - self.beta_2**t,
            self.epsilon,
            1 / t,
            1 - 1 / t,
        )
