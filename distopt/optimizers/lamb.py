"""Lamb, Keras 3 family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arguments import BELOW_ONE, finite, within
from distopt.arrays import Array
from distopt.kernels import Rule, Scalar
from distopt.optimizers.keras3.layerwise import Layerwise, change, square_sum
from distopt.optimizers.sgd import DESCENT


def _lamb(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    one_minus_beta_1: Scalar,
    one_minus_beta_2: Scalar,
    correction_1: Scalar,
    correction_2: Scalar,
    epsilon: Scalar,
) -> None:
    m += (p - m) * one_minus_beta_1
    v += (p * p - v) * one_minus_beta_2
    p[...] = m / correction_1 / (np.sqrt(v / correction_2) + epsilon)


# Its parameter is the gradient, which becomes the direction: an array less to walk through.
DIRECTION = Rule(
    name="lamb",
    slots=("m", "v"),
    scalars=("one_minus_beta_1", "one_minus_beta_2", "correction_1", "correction_2", "epsilon"),
    sparse="all",
    reference=_lamb,
    body="""\
m += (p - m) * one_minus_beta_1
v += (p * p - v) * one_minus_beta_2
p = m / correction_1 / (sqrt(v / correction_2) + epsilon)""",
)


class Lamb(Layerwise):
    """Lamb: a step in Adam's direction, in each variable as long as the variable times the learning rate.

    ``m ← m + (g - m)(1 - β₁)``, ``v ← v + (g² - v)(1 - β₂)``, ``u = m / (1 - β₁ᵀ) / (√(v / (1 - β₂ᵀ)) + ε)``,
    ``w ← w - lr ‖w‖ / ‖u‖ u``, T the number of this step from 1; where a norm is 0, ``w ← w - lr u``.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        beta_1: β₁, decay of the first moment.
        beta_2: β₂, decay of the second.
        epsilon: ε, added to the corrected root.
        *options: the arguments of ``Optimizer`` by position, from ``weight_decay``.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: a beta outside [0, 1), a negative epsilon, any argument that ``Optimizer`` refuses.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([3.0, 4.0])
        >>> _ = Lamb(learning_rate=0.1).apply_gradients([([7.0, 7.0], w)])
        >>> w.numpy().round(4)
        array([2.6464, 3.6464], dtype=float32)

    Source: You et al. 2019, algorithm 2, with φ the identity, as in Keras 3 ``keras.optimizers.Lamb``: weight decay is
    that of ``Optimizer``, not a part of u. Norms are computed in float64.
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
        self.beta_1 = within("Lamb", "beta_1", beta_1, 0, BELOW_ONE)
        self.beta_2 = within("Lamb", "beta_2", beta_2, 0, BELOW_ONE)
        self.epsilon = finite("Lamb", "epsilon", epsilon, low=0)

    def rule_slots(self) -> tuple[str, ...]:
        return "momentum", "velocity"

    def _distopt_move(self, x: Array, g: Array, slots: Sequence[Array], learning_rate: float) -> None:
        t = self._distopt_step_number
        corrections = 1 - self.beta_1**t, 1 - self.beta_2**t
        u = g
        change(DIRECTION, u, u, slots, (1 - self.beta_1, 1 - self.beta_2, *corrections, self.epsilon))
        lengths = math.sqrt(square_sum(x)), math.sqrt(square_sum(u))
        ratio = lengths[0] / lengths[1] if min(lengths) > 0 else 1.0
        change(DESCENT, x, u, [], [ratio * learning_rate])
