"""Lion, Keras 3 family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arguments import within
from distopt.errors import InvalidArgumentError
from distopt.kernels import Array, Rule, Scalar
from distopt.optimizers.keras3.optimizer import Optimizer


def _lion(
    p: Array,
    g: Array,
    m: Array,
    learning_rate: Scalar,
    beta_1: Scalar,
    one_minus_beta_1: Scalar,
    beta_2: Scalar,
    one_minus_beta_2: Scalar,
) -> None:
    direction = beta_1 * m + one_minus_beta_1 * g
    # Zero and NaN are their own signs.
    p -= np.where(direction > 0, learning_rate, np.where(direction < 0, -learning_rate, direction))
    m[...] = beta_2 * m + one_minus_beta_2 * g


LION = Rule(
    name="lion",
    slots=("m",),
    scalars=("learning_rate", "beta_1", "one_minus_beta_1", "beta_2", "one_minus_beta_2"),
    sparse="all",
    reference=_lion,
    body="""\
direction = beta_1 * m + one_minus_beta_1 * g
p -= learning_rate if direction > 0 else (-learning_rate if direction < 0 else direction)
m = beta_2 * m + one_minus_beta_2 * g""",
)


class Lion(Optimizer):
    """Lion: steps of the same size in every element, with the signs of an interpolated momentum.

    ``w ← w - lr sign(β₁ m + (1 - β₁) g)``, then ``m ← β₂ m + (1 - β₂) g``; the sign of 0 is 0.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments. Take a third to a tenth of Adam's.
        beta_1: β₁, weight of the momentum in the direction, above 0 and at most 1.
        beta_2: β₂, decay of the momentum, 0 to 1.
        *options: the arguments of ``Optimizer`` by position, from ``weight_decay``.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: a beta out of range, any argument that ``Optimizer`` refuses.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([1.0, 1.0, 1.0])
        >>> _ = Lion(learning_rate=0.5).apply_gradients([([3.0, -0.1, 0.0], w)])
        >>> w.numpy()
        array([0.5, 1.5, 1. ], dtype=float32)

    Source: Chen et al. 2023, as in Keras 3 ``keras.optimizers.Lion``.
    """

    _distopt_hyperparameters = ("beta_1", "beta_2")
    _distopt_slot_lists = (("momentum", "_momentums"),)

    def __init__(
        self, learning_rate: Any = 0.001, beta_1: float = 0.9, beta_2: float = 0.99, *options: Any, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, *options, **kwargs)
        self.beta_1 = within("Lion", "beta_1", beta_1, 0, 1)
        if self.beta_1 == 0:
            raise InvalidArgumentError(
                "Lion(beta_1=0): the momentum would be of no effect, and Lion the descent by signs: expected a number "
                "above 0, to 1"
            )
        self.beta_2 = within("Lion", "beta_2", beta_2, 0, 1)

    def update_rule(self) -> Rule:
        return LION

    def rule_slots(self) -> tuple[str, ...]:
        return ("momentum",)

    def rule_scalars(self, learning_rate: Any) -> Sequence[float]:
        return learning_rate, self.beta_1, 1 - self.beta_1, self.beta_2, 1 - self.beta_2
