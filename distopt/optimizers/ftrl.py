"""Ftrl (follow the regularised leader), Keras 3 family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arguments import finite
from distopt.errors import InvalidArgumentError
from distopt.kernels import Array, Rule, Scalar
from distopt.optimizers.keras3.optimizer import Optimizer


def _step(
    p: Array,
    g: Array,
    linear: Array,
    old_rate: Array,
    new_rate: Array,
    learning_rate: Scalar,
    l1: Scalar,
    two_l2: Scalar,
    two_shrinkage: Scalar,
) -> None:
    linear += g + two_shrinkage * p - (new_rate - old_rate) / learning_rate * p
    quadratic = new_rate / learning_rate + two_l2
    # np.clip leaves open which of two zeros it returns.
    clipped = np.where(linear < -l1, -l1, np.where(linear > l1, l1, linear))
    rest = clipped - linear
    p[...] = np.where(clipped != linear, rest / quadratic, rest)  # 0, not 0 / 0, where nothing has been accumulated


_BODY = """\
linear += g + two_shrinkage * p - (new_rate - old_rate) / learning_rate * p
quadratic = new_rate / learning_rate + two_l2
clipped = -l1 if linear < -l1 else (l1 if linear > l1 else linear)
rest = clipped - linear
p = rest / quadratic if clipped != linear else rest"""


def _ftrl(p: Array, g: Array, accumulator: Array, linear: Array, *scalars: Scalar) -> None:
    old_rate = np.sqrt(accumulator)
    accumulator += g * g
    _step(p, g, linear, old_rate, np.sqrt(accumulator), *scalars)


FTRL = Rule(
    name="ftrl",
    slots=("accumulator", "linear"),
    scalars=("learning_rate", "l1", "two_l2", "two_shrinkage"),
    sparse="rows",
    reference=_ftrl,
    body=f"""\
old_rate = sqrt(accumulator)
accumulator += g * g
new_rate = sqrt(accumulator)
{_BODY}""",
)
"""The rule for a learning rate power of -0.5. ``two_l2`` is 2 l2 + beta / lr."""


def _ftrl_power(p: Array, g: Array, accumulator: Array, linear: Array, *scalars: Scalar) -> None:
    *others, minus_power = scalars
    old_rate = accumulator**minus_power
    accumulator += g * g
    _step(p, g, linear, old_rate, accumulator**minus_power, *others)


FTRL_POWER = Rule(
    name="ftrl_power",
    slots=("accumulator", "linear"),
    scalars=("learning_rate", "l1", "two_l2", "two_shrinkage", "minus_power"),
    sparse="rows",
    reference=_ftrl_power,
    body=f"""\
old_rate = accumulator ** minus_power
accumulator += g * g
new_rate = accumulator ** minus_power
{_BODY}""",
)
"""The rule for any learning rate power, the only one whose compiled form differs from NumPy's: by up to 2 ulp."""


class Ftrl(Optimizer):
    """Follow the regularised leader: sparse models by online learning.

    ``n' = n + g²``, ``σ = (n'^-p - n^-p) / lr``, ``z ← z + g + 2 s w - σ w``, ``n ← n'``,
    ``w ← (clip(z, -λ₁, λ₁) - z) / ((n^-p + β) / lr + 2 λ₂)``. The parameter is computed from z: its first value counts
    only as far as the first gradient makes n grow.

    Args:
        learning_rate: lr; a number other than 0, a schedule, or a function without arguments.
        learning_rate_power: p, 0 or less; 0 is a fixed learning rate; the default, -0.5, is computed fastest.
        initial_accumulator_value: the first value of n, 0 or more.
        l1_regularization_strength: λ₁, 0 or more; parameters become exactly 0.
        l2_regularization_strength: λ₂, 0 or more.
        l2_shrinkage_regularization_strength: s, 0 or more: a penalty added to the loss.
        beta: β of the paper, 0 or more.
        *options: the arguments of ``Optimizer`` by position, from ``weight_decay``.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: a value out of range; a learning rate of 0, by which Ftrl would divide; any argument that
            ``Optimizer`` refuses.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([1.0, 0.1])
        >>> ftrl = Ftrl(learning_rate=0.5, l1_regularization_strength=0.5)
        >>> _ = ftrl.apply_gradients([([1.0, 0.1], w)])
        >>> w.numpy().round(4)
        array([0., 0.], dtype=float32)

    Source: McMahan et al. 2013, as in Keras 3 ``keras.optimizers.Ftrl``. Where nothing has been accumulated
    (``initial_accumulator_value=0`` and no gradient yet) the parameter is 0 (in Keras NaN).
    """

    _distopt_hyperparameters = (
        "learning_rate_power",
        "initial_accumulator_value",
        "l1_regularization_strength",
        "l2_regularization_strength",
        "l2_shrinkage_regularization_strength",
        "beta",
    )
    _distopt_slot_lists = (("accumulator", "_accumulators"), ("linear", "_linears"))
    _distopt_second_moments = ("accumulator",)

    def __init__(
        self,
        learning_rate: Any = 0.001,
        learning_rate_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        l2_shrinkage_regularization_strength: float = 0.0,
        beta: float = 0.0,
        *options: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, *options, **kwargs)
        self.learning_rate_power = finite("Ftrl", "learning_rate_power", learning_rate_power)
        if self.learning_rate_power > 0:
            raise InvalidArgumentError(
                f"Ftrl(learning_rate_power={learning_rate_power!r}): the learning rate would grow with the gradients: "
                "expected a number, 0 or less"
            )

        def at_least_0(argument: str, value: Any) -> float:
            return finite("Ftrl", argument, value, low=0)

        self.initial_accumulator_value = at_least_0("initial_accumulator_value", initial_accumulator_value)
        self.l1_regularization_strength = at_least_0("l1_regularization_strength", l1_regularization_strength)
        self.l2_regularization_strength = at_least_0("l2_regularization_strength", l2_regularization_strength)
        self.l2_shrinkage_regularization_strength = at_least_0(
            "l2_shrinkage_regularization_strength", l2_shrinkage_regularization_strength
        )
        self.beta = at_least_0("beta", beta)

    def _distopt_make_all_slots(self) -> None:
        first = self.initial_accumulator_value
        filled = (lambda shape, dtype: np.full(shape, first, dtype), "zeros")
        self._distopt_make_slots(("accumulator", "linear"), filled)

    def update_rule(self) -> Rule:
        return FTRL if self.learning_rate_power == -0.5 else FTRL_POWER

    def rule_slots(self) -> tuple[str, ...]:
        return "accumulator", "linear"

    def rule_scalars(self, learning_rate: Any) -> Sequence[float]:
        rate = float(learning_rate)
        if not rate:
            raise InvalidArgumentError(
                f"optimizer {self.name!r}, step {int(self._iterations.storage.array)}: the learning rate is 0, and "
                "Ftrl divides by it: take a small one"
            )
        two_l2 = 2 * self.l2_regularization_strength + self.beta / rate
        scalars = (rate, self.l1_regularization_strength, two_l2, 2 * self.l2_shrinkage_regularization_strength)
        return scalars if self.update_rule() is FTRL else (*scalars, -self.learning_rate_power)
