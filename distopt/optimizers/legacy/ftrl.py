"""Ftrl (follow the regularised leader), legacy family."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from distopt.arguments import finite, within
from distopt.errors import InvalidArgumentError
from distopt.initializers import Constant
from distopt.kernels import Rule
from distopt.optimizers.ftrl import FTRL, FTRL_POWER
from distopt.optimizers.legacy.base.hyperparameters import ApplyState
from distopt.optimizers.legacy.base.optimizer import Optimizer
from distopt.variables.variable import Variable

_ROOT = -0.5


class Ftrl(Optimizer):
    """Follow the regularised leader: sparse weights by l1.

    ``n' = n + g²``, ``σ = (n'⁻ᵖ - n⁻ᵖ) / lr``, ``z ← z + g + 2 λ w - σ w``, ``q = n'⁻ᵖ / lr + 2 l2 + β / lr``,
    ``w ← (sign(z) l1 - z) / q`` where |z| > l1, else 0; ``n ← n'``. The first step computes w from z alone: a first
    value of w other than 0 is lost. Sparse gradients move the rows that they name, in w, n and z.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments; not 0.
        learning_rate_power: p, 0 or less: the learning rate falls with n to this power.
        initial_accumulator_value: the first value of n, 0 or more.
        l1_regularization_strength: l1, 0 or more.
        l2_regularization_strength: l2, 0 or more.
        name: the optimizer's name.
        l2_shrinkage_regularization_strength: λ, 0 or more: a penalty of the weights' size, not of the step's.
        beta: β of the paper, 0 or more.
        **kwargs: the arguments of ``Optimizer``; ``lr`` is ignored.

    Raises:
        InvalidArgumentError: a value outside the ranges above.

    Example:
        >>> import distopt
        >>> v = distopt.Variable([0.0, 0.0])
        >>> ftrl = Ftrl(learning_rate=3.0, l1_regularization_strength=0.15)
        >>> _ = ftrl.apply_gradients([([0.1, 0.2], v)])
        >>> v.numpy().round(4), ftrl.get_slot_names()
        (array([ 0.    , -0.4009], dtype=float32), ['accumulator', 'linear'])

    Source: McMahan et al. 2013, with the names of ``tf_keras.optimizers.legacy.Ftrl``. There a negative beta and a
    learning rate of 0 are accepted, and the latter makes all weights NaN.
    """

    _distopt_arguments = (
        "learning_rate",
        "decay",
        "initial_accumulator_value",
        "learning_rate_power",
        "l1_regularization_strength",
        "l2_regularization_strength",
        "beta",
        "l2_shrinkage_regularization_strength",
    )
    _distopt_strengths = ("l1_regularization_strength", "l2_regularization_strength", "beta")
    _distopt_second_moments = ("accumulator",)

    def __init__(
        self,
        learning_rate: Any = 0.001,
        learning_rate_power: Any = _ROOT,
        initial_accumulator_value: float = 0.1,
        l1_regularization_strength: Any = 0.0,
        l2_regularization_strength: Any = 0.0,
        name: str = "Ftrl",
        l2_shrinkage_regularization_strength: float = 0.0,
        beta: Any = 0.0,
        **kwargs: Any,
    ) -> None:
        if "lr" in kwargs:
            warnings.warn(f"Ftrl ignores lr={kwargs.pop('lr')!r}, as in Keras: use learning_rate", stacklevel=2)
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", learning_rate)
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("learning_rate_power", learning_rate_power)
        self._set_hyper("l1_regularization_strength", l1_regularization_strength)
        self._set_hyper("l2_regularization_strength", l2_regularization_strength)
        self._set_hyper("beta", beta)
        self.initial_accumulator_value = finite("Ftrl", "initial_accumulator_value", initial_accumulator_value, low=0)
        self.l2_shrinkage_regularization_strength = finite(
            "Ftrl", "l2_shrinkage_regularization_strength", l2_shrinkage_regularization_strength, low=0
        )
        self._distopt_takes_roots = True

    def _distopt_checked(self, name: str, value: Any) -> float:
        if name == "learning_rate_power":
            return within("Ftrl", name, value, -math.inf, 0)
        return (
            finite("Ftrl", name, value, low=0)
            if name in self._distopt_strengths
            else super()._distopt_checked(name, value)
        )

    def _create_slots(self, var_list: Sequence[Variable]) -> None:
        for var in var_list:
            self.add_slot(var, "accumulator", Constant(self.initial_accumulator_value))
            self.add_slot(var, "linear")

    def _prepare_local(self, var_device: str, var_dtype: Any, apply_state: ApplyState) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        local = apply_state[var_device, var_dtype]
        rate = float(local["lr_t"])
        if rate == 0:
            raise InvalidArgumentError(
                f"the learning rate of {self._name!r} is 0 in step {int(self.iterations)}, and Ftrl divides by it: let "
                "the schedule end at a small positive number"
            )
        local["two_l2"] = 2 * float(local["l2_regularization_strength"]) + float(local["beta"]) / rate
        self._distopt_takes_roots = local["learning_rate_power"] == _ROOT

    def update_rule(self) -> Rule:
        return FTRL if self._distopt_takes_roots else FTRL_POWER

    def rule_scalars(self, local: dict[str, Any]) -> Sequence[float]:
        shrinkage = 2 * self.l2_shrinkage_regularization_strength
        scalars = local["lr_t"], local["l1_regularization_strength"], local["two_l2"], shrinkage
        return scalars if self._distopt_takes_roots else (*scalars, -local["learning_rate_power"])
