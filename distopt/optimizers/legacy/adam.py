"""Adam, legacy family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.kernels import Rule
from distopt.optimizers.adam import ADAM, AMSGRAD
from distopt.optimizers.legacy.base.hyperparameters import ApplyState, below_one, checked_epsilon, coefficient_dtype
from distopt.optimizers.legacy.base.optimizer import Optimizer


class Adam(Optimizer):
    """Adam, and AMSGrad.

    ``m ← m + (g - m)(1 - β₁)``, ``v ← v + (g² - v)(1 - β₂)``, ``α = lr √(1 - β₂ᵀ) / (1 - β₁ᵀ)``,
    ``w ← w - α m / (√v + ε)``, T the number of this step from 1. AMSGrad: ``v̂ ← max(v̂, v)`` in place of v.
    Sparse gradients move *every* row, as dense ones with zeros elsewhere would.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        beta_1: β₁, decay of the first moment.
        beta_2: β₂, decay of the second.
        epsilon: ε, added to √v before the bias is corrected ("epsilon hat" of the paper); None and 0 mean 1e-7.
        amsgrad: whether to use AMSGrad.
        name: the optimizer's name.
        **kwargs: the arguments of ``Optimizer``.

    Example:
        >>> import distopt
        >>> v = distopt.Variable([10.0])
        >>> adam = Adam(learning_rate=0.1)
        >>> _ = adam.minimize(lambda: (v**2) / 2.0, [v])
        >>> v.numpy().round(4), adam.get_slot_names()
        (array([9.9], dtype=float32), ['m', 'v'])

    Source: Kingma and Ba 2014, the form before section 2.1, as in ``tf_keras.optimizers.legacy.Adam``; AMSGrad: Reddi
    et al. 2018, on the second moment without bias correction. Hyperparameters are float32 (in the variable's dtype
    where that is float16); powers of β are computed in float64 and rounded once.
    """

    _distopt_arguments = ("learning_rate", "decay", "beta_1", "beta_2", "epsilon", "amsgrad")
    _distopt_fractions = ("beta_1", "beta_2")
    _distopt_second_moments = ("v", "vhat")

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: float | None = 1e-7,
        amsgrad: bool = False,
        name: str = "Adam",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("beta_1", beta_1)
        self._set_hyper("beta_2", beta_2)
        self.epsilon = checked_epsilon("Adam", epsilon)
        self.amsgrad = bool(amsgrad)

    def _prepare_local(self, var_device: str, var_dtype: Any, apply_state: ApplyState) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        local, scalar = apply_state[var_device, var_dtype], coefficient_dtype(var_dtype).type
        one, step = scalar(1), float(scalar(self._distopt_step_number))
        beta_1, beta_2 = local["beta_1"], local["beta_2"]
        beta_1_power = scalar(below_one(self._name, "beta_1", beta_1) ** step)
        beta_2_power = scalar(below_one(self._name, "beta_2", beta_2) ** step)
        local.update(
            lr=local["lr_t"] * (np.sqrt(one - beta_2_power) / (one - beta_1_power)),
            epsilon=scalar(self.epsilon),
            beta_1_t=beta_1,
            beta_1_power=beta_1_power,
            one_minus_beta_1_t=one - beta_1,
            beta_2_t=beta_2,
            beta_2_power=beta_2_power,
            one_minus_beta_2_t=one - beta_2,
        )

    def update_rule(self) -> Rule:
        return AMSGRAD if self.amsgrad else ADAM

    def rule_scalars(self, local: dict[str, Any]) -> Sequence[float]:
        return local["lr"], local["one_minus_beta_1_t"], local["one_minus_beta_2_t"], local["epsilon"]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the values of ``weights``; without AMSGrad, a list with AMSGrad's slots at its end is accepted too."""
        held = len(self.weights)
        if not self.amsgrad and held > 1 and len(weights) == 1 + (held - 1) // 2 * 3:
            weights = weights[:held]
        super().set_weights(weights)


class NonFusedAdam(Adam):
    """Adam under its other name in tf_keras: the same formula, slots and weights, and in distopt the same kernel.

    Example:
        >>> import distopt
        >>> v = distopt.Variable([10.0])
        >>> _ = NonFusedAdam(learning_rate=0.1, epsilon=1.0).apply_gradients([([10.0], v)])
        >>> v.numpy().round(4)
        array([9.976], dtype=float32)

    Source: ``tf_keras.optimizers.legacy.adam.NonFusedAdam``. Up to Keras 2.12 its dense step divided by √v *minus* ε,
    by mistake; here, as in the documentation and in all later versions, it divides by √v plus ε.
    """
