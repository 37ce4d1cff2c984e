"""Adagrad, legacy family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distopt.arguments import finite
from distopt.initializers import Constant
from distopt.kernels import Rule
from distopt.optimizers.adagrad import ADAGRAD
from distopt.optimizers.legacy.base.hyperparameters import checked_epsilon
from distopt.optimizers.legacy.base.optimizer import Optimizer
from distopt.variables.variable import Variable


class Adagrad(Optimizer):
    """Adagrad.

    ``a ← a + g²``, ``w ← w - lr g / (√a + ε)``. Sparse gradients move the rows that they name, in w and in a.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        initial_accumulator_value: the first value of a, 0 or more.
        epsilon: ε; None and 0 mean 1e-7.
        name: the optimizer's name.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: a negative initial_accumulator_value or epsilon.

    Example:
        >>> import distopt
        >>> v = distopt.Variable([1.0])
        >>> adagrad = Adagrad(learning_rate=0.5, initial_accumulator_value=9.0)
        >>> _ = adagrad.apply_gradients([([4.0], v)])
        >>> v.numpy().round(4), adagrad.get_slot(v, "accumulator").numpy()
        (array([0.6], dtype=float32), array([25.], dtype=float32))

    Source: Duchi et al. 2011, as in ``tf_keras.optimizers.legacy.Adagrad``. There ``from_config`` leaves a schedule
    as a dictionary, with which no step can be done; here the schedule is rebuilt, as in all other classes.
    """

    _distopt_arguments = ("learning_rate", "decay", "initial_accumulator_value", "epsilon")
    _distopt_second_moments = ("accumulator",)
    _distopt_may_lack_iterations = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float | None = 1e-7,
        name: str = "Adagrad",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self.initial_accumulator_value = finite(
            "Adagrad", "initial_accumulator_value", initial_accumulator_value, low=0
        )
        self.epsilon = checked_epsilon("Adagrad", epsilon)

    def _create_slots(self, var_list: Sequence[Variable]) -> None:
        for var in var_list:
            self.add_slot(var, "accumulator", Constant(self.initial_accumulator_value))

    def update_rule(self) -> Rule:
        return ADAGRAD

    def rule_scalars(self, local: dict[str, Any]) -> Sequence[float]:
        return local["lr_t"], 0.0, self.epsilon
