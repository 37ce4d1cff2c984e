"""Adamax, legacy family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distopt.kernels import Rule
from distopt.optimizers.adamax import ADAMAX
from distopt.optimizers.legacy.base.hyperparameters import ApplyState, below_one, checked_epsilon
from distopt.optimizers.legacy.base.optimizer import Optimizer


class Adamax(Optimizer):
    """Adamax: Adam with the infinity norm.

    ``m ← m + (g - m)(1 - β₁)``, ``v ← max(β₂ v, |g|)``, ``w ← w - lr / (1 - β₁ᵀ) m / (v + ε)``, T the number of this
    step from 1. Sparse gradients move the rows that they name, in w, m and v.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        beta_1: β₁, decay of the first moment.
        beta_2: β₂, decay of the norm.
        epsilon: ε; None and 0 mean 1e-7.
        name: the optimizer's name.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: a beta outside 0 to 1, a negative epsilon; at the first step, a beta_1 of 1.

    Example:
        >>> import distopt
        >>> v = distopt.Variable([10.0])
        >>> adamax = Adamax(learning_rate=0.1)
        >>> _ = adamax.apply_gradients([([5.0], v)])
        >>> v.numpy().round(4), adamax.get_slot_names()
        (array([9.9], dtype=float32), ['m', 'v'])

    Source: Kingma and Ba 2014, section 7.1, as in ``tf_keras.optimizers.legacy.Adamax``.
    """

    _distopt_arguments = ("learning_rate", "decay", "beta_1", "beta_2", "epsilon")
    _distopt_fractions = ("beta_1", "beta_2")

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: float | None = 1e-7,
        name: str = "Adamax",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("beta_1", beta_1)
        self._set_hyper("beta_2", beta_2)
        self.epsilon = checked_epsilon("Adamax", epsilon)

    def _prepare_local(self, var_device: str, var_dtype: Any, apply_state: ApplyState) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        local = apply_state[var_device, var_dtype]
        beta_1 = below_one(self._name, "beta_1", local["beta_1"])
        local["alpha"] = float(local["lr_t"]) / (1 - beta_1**self._distopt_step_number)
        local["one_minus_beta_1"] = 1 - beta_1

    def update_rule(self) -> Rule:
        return ADAMAX

    def rule_slots(self) -> tuple[str, ...]:
        return "m", "v"

    def rule_scalars(self, local: dict[str, Any]) -> Sequence[float]:
        return local["alpha"], local["one_minus_beta_1"], local["beta_2"], self.epsilon
