"""Adadelta, Keras 3 family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arguments import finite, within
from distopt.kernels import Array, Rule, Scalar
from distopt.optimizers.keras3.optimizer import Optimizer


def _adadelta(
    p: Array,
    g: Array,
    accum_grad: Array,
    accum_var: Array,
    learning_rate: Scalar,
    rho: Scalar,
    one_minus_rho: Scalar,
    epsilon: Scalar,
) -> None:
    accum_grad[...] = rho * accum_grad + one_minus_rho * (g * g)
    delta = np.sqrt(accum_var + epsilon) * g / np.sqrt(accum_grad + epsilon)
    accum_var[...] = rho * accum_var + one_minus_rho * (delta * delta)
    p -= learning_rate * delta


ADADELTA = Rule(
    name="adadelta",
    slots=("accum_grad", "accum_var"),
    scalars=("learning_rate", "rho", "one_minus_rho", "epsilon"),
    sparse="rows",
    reference=_adadelta,
    body="""\
accum_grad = rho * accum_grad + one_minus_rho * (g * g)
delta = sqrt(accum_var + epsilon) * g / sqrt(accum_grad + epsilon)
accum_var = rho * accum_var + one_minus_rho * (delta * delta)
p -= learning_rate * delta""",
)


class Adadelta(Optimizer):
    """Adadelta: the size of a step comes from the running means of squared gradients and squared steps.

    ``a ← ρ a + (1 - ρ) g²``, ``d = √(s + ε) g / √(a + ε)``, ``s ← ρ s + (1 - ρ) d²``, ``w ← w - lr d``.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments. The paper's is 1.
        rho: ρ, decay of both means, 0 to 1.
        epsilon: ε, which also sets the size of the first steps, taken literally.
        *options: the arguments of ``Optimizer`` by position, from ``weight_decay``.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: ρ outside 0 to 1, a negative epsilon, any argument that ``Optimizer`` refuses.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([1.0])
        >>> _ = Adadelta(learning_rate=1.0, epsilon=1e-2).apply_gradients([([1.0], w)])
        >>> w.numpy().round(4)
        array([0.5918], dtype=float32)

    Source: Zeiler 2012, as in Keras 3 ``keras.optimizers.Adadelta``; the learning rate is no part of s.
    """

    _distopt_hyperparameters = ("rho", "epsilon")
    _distopt_slot_lists = (
        ("accumulated_grad", "_accumulated_grads"),
        ("accumulated_delta_var", "_accumulated_delta_vars"),
    )
    _distopt_second_moments = ("accumulated_grad", "accumulated_delta_var")

    def __init__(
        self, learning_rate: Any = 0.001, rho: float = 0.95, epsilon: float = 1e-7, *options: Any, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, *options, **kwargs)
        self.rho = within("Adadelta", "rho", rho, 0, 1)
        self.epsilon = finite("Adadelta", "epsilon", epsilon, low=0)

    def update_rule(self) -> Rule:
        return ADADELTA

    def rule_slots(self) -> tuple[str, ...]:
        return "accumulated_grad", "accumulated_delta_var"

    def rule_scalars(self, learning_rate: Any) -> Sequence[float]:
        return learning_rate, self.rho, 1 - self.rho, self.epsilon
