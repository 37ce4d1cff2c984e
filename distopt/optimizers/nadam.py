"""Nadam, Keras 3 family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arguments import BELOW_ONE, finite, within
from distopt.kernels import Array, Rule, Scalar
from distopt.kernels.spans import compute_dtype
from distopt.optimizers.keras3.optimizer import Optimizer
from distopt.slabs.gradients import Gradients


def _nadam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    gradient_factor: Scalar,
    momentum_factor: Scalar,
    one_minus_beta_1: Scalar,
    one_minus_beta_2: Scalar,
    v_correction: Scalar,
    epsilon: Scalar,
) -> None:
    m += (g - m) * one_minus_beta_1
    v += (g * g - v) * one_minus_beta_2
    p -= (gradient_factor * g + momentum_factor * m) / (np.sqrt(v / v_correction) + epsilon)


NADAM = Rule(
    name="nadam",
    slots=("m", "v"),
    scalars=(
        "gradient_factor",
        "momentum_factor",
        "one_minus_beta_1",
        "one_minus_beta_2",
        "v_correction",
        "epsilon",
    ),
    sparse="slots",
    reference=_nadam,
    body="""\
m += (g - m) * one_minus_beta_1
v += (g * g - v) * one_minus_beta_2
p -= (gradient_factor * g + momentum_factor * m) / (sqrt(v / v_correction) + epsilon)""",
)


class Nadam(Optimizer):
    """Adam with Nesterov momentum.

    ``μ_T = β₁ (1 - ½ 0.96ᵀ)``, ``c ← c μ_T``, ``m ← m + (g - m)(1 - β₁)``, ``v ← v + (g² - v)(1 - β₂)``,
    ``m̄ = (1 - μ_T) g / (1 - c) + μ_{T+1} m / (1 - c μ_{T+1})``, ``w ← w - lr m̄ / (√(v / (1 - β₂ᵀ)) + ε)``, T the number
    of this step from 1, c = 1 before the first.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        beta_1: β₁, decay of the first moment.
        beta_2: β₂, decay of the second.
        epsilon: ε, added to the root, taken literally.
        *options: the arguments of ``Optimizer`` by position, from ``weight_decay``.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: a beta outside [0, 1), a negative epsilon, any argument that ``Optimizer`` refuses.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([1.0])
        >>> _ = Nadam(learning_rate=0.5).apply_gradients([([1.0], w)])
        >>> w.numpy().round(4)
        array([0.4686], dtype=float32)

    Source: Dozat 2015, as in Keras 3 ``keras.optimizers.Nadam``. Momentum approaches β₁ 250 times faster than in the
    legacy family (0.96ᵀ, there 0.96^(0.004 T)). c is the variable ``u_product``, one for all variables, in float32 also
    where the first variable has 16 bits (in Keras c has the dtype of the first variable).
    """

    _distopt_hyperparameters = ("beta_1", "beta_2", "epsilon")
    _distopt_slot_lists = (("momentum", "_momentums"), ("velocity", "_velocities"))
    _distopt_second_moments = ("velocity",)

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        *options: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, *options, **kwargs)
        self.beta_1 = within("Nadam", "beta_1", beta_1, 0, BELOW_ONE)
        self.beta_2 = within("Nadam", "beta_2", beta_2, 0, BELOW_ONE)
        self.epsilon = finite("Nadam", "epsilon", epsilon, low=0)

    def _distopt_make_all_slots(self) -> None:
        super()._distopt_make_all_slots()
        dtype = compute_dtype(self._trainable_variables[0].dtype) if self._trainable_variables else None
        self._u_product = self.add_variable((), "ones", dtype, name="u_product")

    def update_rule(self) -> Rule:
        return NADAM

    def rule_slots(self) -> tuple[str, ...]:
        return "momentum", "velocity"

    def _momentum(self, t: int) -> float:
        return self.beta_1 * (1 - 0.5 * 0.96**t)

    def _distopt_product(self, t: int) -> float:
        """Return the product of the momenta up to and with this step, as it is stored after the step."""
        before = self._u_product.storage.array
        return float(before.dtype.type(float(before) * self._momentum(t)))

    def rule_scalars(self, learning_rate: Any) -> Sequence[float]:
        t = self._distopt_step_number
        rate, momentum, following = float(learning_rate), self._momentum(t), self._momentum(t + 1)
        product = self._distopt_product(t)
        return (
            rate * (1 - momentum) / (1 - product),
            rate * following / (1 - product * following),
            1 - self.beta_1,
            1 - self.beta_2,
            1 - self.beta_2**t,
            self.epsilon,
        )

    def _distopt_update(self, gradients: Gradients, *, dense_done: bool = False) -> None:
        super()._distopt_update(gradients, dense_done=dense_done)
        self._u_product.assign(self._distopt_product(self._distopt_step_number))
