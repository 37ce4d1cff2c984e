"""Adam, Keras 3 family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distopt.kernels import ADAM, AMSGRAD, Rule
from distopt.optimizers.arguments import finite, within
from distopt.optimizers.optimizer import Optimizer
from distopt.variable import Variable

_BELOW_ONE = math.nextafter(1.0, 0.0)
"""A beta of 1 would keep moments at zero for ever."""


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

    _rule_hyperparameters = ("beta_1", "beta_2", "epsilon")

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = within("Adam", "beta_1", beta_1, 0, _BELOW_ONE)
        self.beta_2 = within("Adam", "beta_2", beta_2, 0, _BELOW_ONE)
        self.epsilon = finite("Adam", "epsilon", epsilon, low=0)
        self.amsgrad = bool(amsgrad)

    def build(self, variables: Sequence[Variable]) -> None:
        """Make momentum and velocity of every variable, then the largest velocities."""
        if self.built:
            return
        super().build(variables)
        for variable in variables:
            self.add_variable_from_reference(variable, "momentum")
            self.add_variable_from_reference(variable, "velocity")
        if self.amsgrad:
            for variable in variables:
                self.add_variable_from_reference(variable, "velocity_hat")

    def _rule(self) -> Rule:
        return AMSGRAD if self.amsgrad else ADAM

    def _slot_labels(self) -> tuple[str, ...]:
        return ("momentum", "velocity", "velocity_hat") if self.amsgrad else ("momentum", "velocity")

    def _scalars(self, learning_rate: Any) -> Sequence[float]:
        t = int(self._iterations._array) + 1
        alpha = float(learning_rate) * math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        return alpha, 1 - self.beta_1, 1 - self.beta_2, self.epsilon

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs."""
        own = {name: getattr(self, name) for name in (*self._rule_hyperparameters, "amsgrad")}
        return super().get_config() | own
