"""Adamax, Keras 3 family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arguments import BELOW_ONE, finite, within
from distopt.kernels import Array, Rule, Scalar
from distopt.optimizers.keras3.optimizer import Optimizer


def _adamax(
    p: Array,
    g: Array,
    m: Array,
    u: Array,
    alpha: Scalar,
    one_minus_beta_1: Scalar,
    beta_2: Scalar,
    epsilon: Scalar,
) -> None:
    m += (g - m) * one_minus_beta_1
    decayed, size = beta_2 * u, np.abs(g)
    # np.maximum leaves open which of two zeros it returns, and its vector and scalar loops differ.
    u[...] = np.where((decayed > size) | np.isnan(decayed), decayed, size)
    p -= alpha * m / (u + epsilon)


ADAMAX = Rule(
    name="adamax",
    slots=("m", "u"),
    scalars=("alpha", "one_minus_beta_1", "beta_2", "epsilon"),
    sparse="rows",
    reference=_adamax,
    body="""\
m += (g - m) * one_minus_beta_1
decayed = beta_2 * u
size = abs(g)
u = decayed if (decayed > size) | (decayed != decayed) else size
p -= alpha * m / (u + epsilon)""",
)


class Adamax(Optimizer):
    """Adamax: Adam with the largest gradient so far in place of the second moment.

    ``m ← m + (g - m)(1 - β₁)``, ``u ← max(β₂ u, |g|)``, ``w ← w - lr / (1 - β₁ᵀ) m / (u + ε)``, T the number of this
    step from 1.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        beta_1: β₁, decay of the first moment.
        beta_2: β₂, decay of the norm, 0 to 1.
        epsilon: ε, against division by zero, taken literally.
        *options: the arguments of ``Optimizer`` by position, from ``weight_decay``.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: β₁ outside [0, 1), β₂ outside [0, 1], a negative epsilon, any argument that ``Optimizer``
            refuses.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([1.0])
        >>> _ = Adamax(learning_rate=0.5).apply_gradients([([-6.0], w)])
        >>> w.numpy()
        array([1.5], dtype=float32)

    Source: Kingma and Ba 2014, section 7.1, as in Keras 3 ``keras.optimizers.Adamax``; ε is Keras'. A sparse gradient
    acts as the dense one with zeros elsewhere (in the legacy family only the rows that it names move).
    """

    _distopt_hyperparameters = ("beta_1", "beta_2", "epsilon")
    _distopt_slot_lists = (("momentum", "_m"), ("norm", "_u"))

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
        self.beta_1 = within("Adamax", "beta_1", beta_1, 0, BELOW_ONE)
        self.beta_2 = within("Adamax", "beta_2", beta_2, 0, 1)
        self.epsilon = finite("Adamax", "epsilon", epsilon, low=0)

    def update_rule(self) -> Rule:
        return ADAMAX

    def rule_slots(self) -> tuple[str, ...]:
        return "momentum", "norm"

    def rule_scalars(self, learning_rate: Any) -> Sequence[float]:
        t = self._distopt_step_number
        alpha = float(learning_rate) / (1 - self.beta_1**t)
        return alpha, 1 - self.beta_1, self.beta_2, self.epsilon
