"""RMSprop, legacy family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distopt.kernels import Rule
from distopt.optimizers.legacy.base.hyperparameters import checked_epsilon
from distopt.optimizers.legacy.base.momentum import WithMomentum
from distopt.optimizers.rmsprop import (
    RMSPROP,
    RMSPROP_CENTERED,
    RMSPROP_CENTERED_MOMENTUM,
    RMSPROP_MOMENTUM,
)


class RMSprop(WithMomentum):
    """RMSprop, with momentum, and centered.

    ``r ← ρ r + (1 - ρ) g²`` and d = r; centered: ``q ← ρ q + (1 - ρ) g`` and d = r - q². Without momentum
    ``w ← w - lr g / (√d + ε)``; with momentum ``a ← μ a + lr g / √(d + ε)`` and ``w ← w - a``. The two formulas differ
    in the place of ε, so a very small μ does not give the same steps as no momentum. Sparse gradients move the rows
    that they name; without momentum r and q decay in all rows.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        rho: ρ, decay of the means.
        momentum: μ, 0 to 1; what is given here decides whether momentum is used at all.
        epsilon: ε; None and 0 mean 1e-7.
        centered: whether to divide by the standard deviation. It becomes 0 for gradients that hardly change, and
            rounding can make r - q² negative, which gives NaN. An ε inside the root (with momentum) prevents that, an
            ε outside does not.
        name: the optimizer's name.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: rho or momentum outside 0 to 1, a negative epsilon.

    Example:
        >>> import distopt
        >>> v = distopt.Variable([10.0])
        >>> rmsprop = RMSprop(learning_rate=0.1)
        >>> _ = rmsprop.minimize(lambda: (v**2) / 2.0, [v])
        >>> v.numpy().round(4), rmsprop.get_slot_names()
        (array([9.6838], dtype=float32), ['rms'])

    Source: Hinton 2012; centered: Graves 2013; as in ``tf_keras.optimizers.legacy.RMSprop``.
    """

    _distopt_arguments = ("learning_rate", "decay", "rho", "momentum", "epsilon", "centered")
    _distopt_fractions = ("rho", "momentum")
    _distopt_second_moments = ("rms",)
    _distopt_may_lack_iterations = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: Any = 0.9,
        momentum: Any = 0.0,
        epsilon: float | None = 1e-7,
        centered: bool = False,
        name: str = "RMSprop",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("rho", rho)
        self._set_hyper("momentum", momentum)
        self.epsilon = checked_epsilon("RMSprop", epsilon)
        self.centered = bool(centered)

    def update_rule(self) -> Rule:
        if self._momentum:
            return RMSPROP_CENTERED_MOMENTUM if self.centered else RMSPROP_MOMENTUM
        return RMSPROP_CENTERED if self.centered else RMSPROP

    def rule_scalars(self, local: dict[str, Any]) -> Sequence[float]:
        rho = float(local["rho"])
        means = local["lr_t"], rho, 1 - rho
        return (*means, self.epsilon, 0.0, local["momentum"]) if self._momentum else (*means, 0.0, self.epsilon)
