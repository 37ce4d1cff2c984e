"""Adagrad, Keras 3 family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arguments import finite
from distopt.kernels import Array, Rule, Scalar
from distopt.optimizers.keras3.optimizer import Optimizer


def _adagrad(p: Array, g: Array, accumulator: Array, learning_rate: Scalar, inside: Scalar, outside: Scalar) -> None:
    accumulator += g * g
    p -= learning_rate * g / (np.sqrt(accumulator + inside) + outside)


ADAGRAD = Rule(
    name="adagrad",
    slots=("accumulator",),
    scalars=("learning_rate", "inside", "outside"),
    sparse="rows",
    reference=_adagrad,
    body="""\
accumulator += g * g
p -= learning_rate * g / (sqrt(accumulator + inside) + outside)""",
)
"""The rule has two epsilons, one inside of the root (Keras 3) and one outside (legacy family); the other one is 0."""


class Adagrad(Optimizer):
    """Adagrad: a learning rate per element, smaller the more that element has moved.

    ``a ← a + g²``, ``w ← w - lr g / √(a + ε)``.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments. The paper's is near 1.
        initial_accumulator_value: the first value of a, 0 or more.
        epsilon: ε, against division by zero, taken literally.
        *options: the arguments of ``Optimizer`` by position, from ``weight_decay``.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: a negative accumulator or epsilon (Keras 3 goes on with NaN), any argument that
            ``Optimizer`` refuses.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([1.0])
        >>> _ = Adagrad(learning_rate=0.5).apply_gradients([([1.0], w)])
        >>> w.numpy().round(4)
        array([0.5233], dtype=float32)

    Source: Duchi et al. 2011, as in Keras 3 ``keras.optimizers.Adagrad``: ε inside of the root (in the legacy family
    outside).
    """

    _distopt_hyperparameters = ("initial_accumulator_value", "epsilon")
    _distopt_slot_lists = (("accumulator", "_accumulators"),)
    _distopt_second_moments = ("accumulator",)

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        *options: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, *options, **kwargs)
        self.initial_accumulator_value = finite(
            "Adagrad", "initial_accumulator_value", initial_accumulator_value, low=0
        )
        self.epsilon = finite("Adagrad", "epsilon", epsilon, low=0)

    def _distopt_make_all_slots(self) -> None:
        first = self.initial_accumulator_value
        self._distopt_make_slots(("accumulator",), lambda shape, dtype: np.full(shape, first, dtype))

    def update_rule(self) -> Rule:
        return ADAGRAD

    def rule_slots(self) -> tuple[str, ...]:
        return ("accumulator",)

    def rule_scalars(self, learning_rate: Any) -> Sequence[float]:
        return learning_rate, self.epsilon, 0.0
