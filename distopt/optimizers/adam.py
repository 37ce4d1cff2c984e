"""Adam, Keras 3 family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arguments import BELOW_ONE, finite, flag, within
from distopt.kernels import Array, Rule, Scalar
from distopt.optimizers.keras3.optimizer import Optimizer


def _adam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    alpha: Scalar,
    one_minus_beta_1: Scalar,
    one_minus_beta_2: Scalar,
    epsilon: Scalar,
) -> None:
    m += (g - m) * one_minus_beta_1
    v += (g * g - v) * one_minus_beta_2
    p -= alpha * m / (np.sqrt(v) + epsilon)


ADAM = Rule(
    name="adam",
    slots=("m", "v"),
    scalars=("alpha", "one_minus_beta_1", "one_minus_beta_2", "epsilon"),
    sparse="all",
    reference=_adam,
    body="""\
m += (g - m) * one_minus_beta_1
v += (g * g - v) * one_minus_beta_2
p -= alpha * m / (sqrt(v) + epsilon)""",
)


def _amsgrad(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    vhat: Array,
    alpha: Scalar,
    one_minus_beta_1: Scalar,
    one_minus_beta_2: Scalar,
    epsilon: Scalar,
) -> None:
    m += (g - m) * one_minus_beta_1
    v += (g * g - v) * one_minus_beta_2
    # np.maximum leaves open which of two zeros it returns, and its vector and scalar loops differ.
    vhat[...] = np.where((v > vhat) | np.isnan(v), v, vhat)
    p -= alpha * m / (np.sqrt(vhat) + epsilon)


AMSGRAD = Rule(
    name="amsgrad",
    slots=("m", "v", "vhat"),
    scalars=("alpha", "one_minus_beta_1", "one_minus_beta_2", "epsilon"),
    sparse="all",
    reference=_amsgrad,
    body="""\
m += (g - m) * one_minus_beta_1
v += (g * g - v) * one_minus_beta_2
vhat = v if (v > vhat) | (v != v) else vhat
p -= alpha * m / (sqrt(vhat) + epsilon)""",
)


class Adam(Optimizer):
    """Adam, and AMSGrad.

    ``m ← m + (g - m)(1 - β₁)``, ``v ← v + (g² - v)(1 - β₂)``, ``α = lr √(1 - β₂ᵀ) / (1 - β₁ᵀ)``,
    ``w ← w - α m / (√v + ε)``, T the number of this step from 1. AMSGrad: ``v̂ ← max(v̂, v)`` in place of v.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        beta_1: β₁, decay of the first moment.
        beta_2: β₂, decay of the second.
        epsilon: ε, added to √v before the bias is corrected ("epsilon hat" of the paper), taken literally.
        amsgrad: whether to use AMSGrad.
        *options: the arguments of ``Optimizer`` by position, from ``weight_decay``.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: a beta outside [0, 1), a negative epsilon, any argument that ``Optimizer`` refuses.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([10.0])
        >>> _ = Adam(learning_rate=0.1).apply_gradients([([10.0], w)])
        >>> w.numpy().round(4)
        array([9.9], dtype=float32)

    Source: Kingma and Ba 2014, the form before section 2.1, as in Keras 3 ``keras.optimizers.Adam``; AMSGrad: Reddi
    et al. 2018, on the second moment without bias correction. α is computed in float64 and rounded once.
    """

    _distopt_hyperparameters = ("beta_1", "beta_2", "epsilon", "amsgrad")
    _distopt_slot_lists = (("momentum", "_momentums"), ("velocity", "_velocities"), ("velocity_hat", "_velocity_hats"))
    _distopt_second_moments = ("velocity", "velocity_hat")

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *options: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, *options, **kwargs)
        self.beta_1 = within("Adam", "beta_1", beta_1, 0, BELOW_ONE)
        self.beta_2 = within("Adam", "beta_2", beta_2, 0, BELOW_ONE)
        self.epsilon = finite("Adam", "epsilon", epsilon, low=0)
        self.amsgrad = flag("Adam", "amsgrad", amsgrad)

    def _distopt_make_all_slots(self) -> None:
        self._distopt_make_slots(("momentum", "velocity"))
        if self.amsgrad:
            self._distopt_make_slots(("velocity_hat",))

    def update_rule(self) -> Rule:
        return AMSGRAD if self.amsgrad else ADAM

    def rule_slots(self) -> tuple[str, ...]:
        return ("momentum", "velocity", "velocity_hat") if self.amsgrad else ("momentum", "velocity")

    def rule_scalars(self, learning_rate: Any) -> Sequence[float]:
        t = self._distopt_step_number
        alpha = float(learning_rate) * math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        return alpha, 1 - self.beta_1, 1 - self.beta_2, self.epsilon
