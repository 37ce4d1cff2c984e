"""Adadelta, legacy family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distopt.kernels import Rule
from distopt.optimizers.adadelta import ADADELTA
from distopt.optimizers.legacy.base.hyperparameters import checked_epsilon
from distopt.optimizers.legacy.base.optimizer import Optimizer


class Adadelta(Optimizer):
    """Adadelta.

    ``a ← ρ a + (1 - ρ) g²``, ``u = g √(s + ε) / √(a + ε)``, ``s ← ρ s + (1 - ρ) u²``, ``w ← w - lr u``. Sparse
    gradients move the rows that they name, in w, a and s.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments. The paper's form has 1.
        rho: ρ, decay of both means.
        epsilon: ε; None and 0 mean 1e-7.
        name: the optimizer's name.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: rho outside 0 to 1, a negative epsilon.

    Example:
        >>> import distopt
        >>> v = distopt.Variable([1.0])
        >>> adadelta = Adadelta(learning_rate=1.0, rho=0.5, epsilon=1.0)
        >>> _ = adadelta.apply_gradients([([2.0], v)])
        >>> v.numpy().round(4), adadelta.get_slot_names()
        (array([-0.1547], dtype=float32), ['accum_grad', 'accum_var'])

    Source: Zeiler 2012, as in ``tf_keras.optimizers.legacy.Adadelta``.
    """

    _distopt_arguments = ("learning_rate", "decay", "rho", "epsilon")
    _distopt_fractions = ("rho",)
    _distopt_second_moments = ("accum_grad", "accum_var")
    _distopt_may_lack_iterations = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: Any = 0.95,
        epsilon: float | None = 1e-7,
        name: str = "Adadelta",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("rho", rho)
        self.epsilon = checked_epsilon("Adadelta", epsilon)

    def update_rule(self) -> Rule:
        return ADADELTA

    def rule_scalars(self, local: dict[str, Any]) -> Sequence[float]:
        rho = float(local["rho"])
        return local["lr_t"], rho, 1 - rho, self.epsilon
