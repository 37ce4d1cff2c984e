"""RMSprop, Keras 3 family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arguments import finite, flag, within
from distopt.kernels import Array, Rule, Scalar
from distopt.optimizers.keras3.optimizer import Optimizer


def _rmsprop(
    p: Array,
    g: Array,
    *,
    rms: Array,
    momentum: Array | None = None,
    mg: Array | None = None,
    learning_rate: Scalar,
    rho: Scalar,
    one_minus_rho: Scalar,
    inside: Scalar,
    outside: Scalar,
    mu: Scalar = None,
) -> None:
    rms[...] = rho * rms + one_minus_rho * (g * g)
    variance = rms
    if mg is not None:
        mg[...] = rho * mg + one_minus_rho * g
        variance = rms - mg * mg
    change = learning_rate * g / (np.sqrt(variance + inside) + outside)
    if momentum is not None:
        momentum[...] = mu * momentum + change
        change = momentum
    p -= change


def _variant(*, momentum: bool = False, centered: bool = False) -> Rule:
    """Make the rule of one of the four variants."""
    slots = ("rms",) + ("momentum",) * momentum + ("mg",) * centered
    scalars = ("learning_rate", "rho", "one_minus_rho", "inside", "outside") + ("mu",) * momentum

    def reference(p: Array, g: Array, *state: Any) -> None:
        _rmsprop(p, g, **dict(zip(slots + scalars, state, strict=True)))

    body = ["rms = rho * rms + one_minus_rho * (g * g)"]
    if centered:
        body += ["mg = rho * mg + one_minus_rho * g"]
    body += [f"change = learning_rate * g / (sqrt({'rms - mg * mg' if centered else 'rms'} + inside) + outside)"]
    body += ["momentum = mu * momentum + change", "p -= momentum"] if momentum else ["p -= change"]
    name = "rmsprop" + "_centered" * centered + "_momentum" * momentum
    return Rule(name, slots, scalars, "rows" if momentum else "slots", reference, "\n".join(body))


RMSPROP = _variant()
"""The rule has two epsilons, one inside of the root (Keras 3) and one outside (legacy family); the other one is 0."""
RMSPROP_CENTERED = _variant(centered=True)
RMSPROP_MOMENTUM = _variant(momentum=True)
RMSPROP_CENTERED_MOMENTUM = _variant(momentum=True, centered=True)


class RMSprop(Optimizer):
    """RMSprop: gradients divided by their recent size.

    ``r ← ρ r + (1 - ρ) g²``, ``d = lr g / √(r + ε)``; centered: ``q ← ρ q + (1 - ρ) g`` and ``r - q²`` in place of r.
    ``w ← w - d``, or with momentum ``a ← μ a + d`` and ``w ← w - a``.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        rho: ρ, decay of the means, 0 to 1.
        momentum: μ, 0 to 1.
        epsilon: ε, inside of the root, taken literally.
        centered: whether to divide by the estimated deviation.
        *options: the arguments of ``Optimizer`` by position, from ``weight_decay``.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: ρ or μ outside 0 to 1, a negative epsilon, any argument that ``Optimizer`` refuses.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([10.0])
        >>> _ = RMSprop(learning_rate=0.1).apply_gradients([([10.0], w)])
        >>> w.numpy().round(4)
        array([9.6838], dtype=float32)

    Source: Tieleman and Hinton 2012; centered: Graves 2013, as in Keras 3 ``keras.optimizers.RMSprop``: ε always inside
    of the root (in the legacy family outside where there is no momentum).
    """

    _distopt_hyperparameters = ("rho", "momentum", "epsilon", "centered")
    _distopt_slot_lists = (
        ("momentum", "_momentums"),
        ("velocity", "_velocities"),
        ("average_gradient", "_average_gradients"),
    )
    _distopt_second_moments = ("velocity",)

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        *options: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, *options, **kwargs)
        self.rho = within("RMSprop", "rho", rho, 0, 1)
        self.momentum = within("RMSprop", "momentum", momentum, 0, 1)
        self.epsilon = finite("RMSprop", "epsilon", epsilon, low=0)
        self.centered = flag("RMSprop", "centered", centered)

    def _distopt_make_all_slots(self) -> None:
        for label in self.rule_slots():
            self._distopt_make_slots((label,))

    @property
    def _distopt_has_momentum(self) -> bool:
        return self.momentum != 0

    def update_rule(self) -> Rule:
        if self._distopt_has_momentum:
            return RMSPROP_CENTERED_MOMENTUM if self.centered else RMSPROP_MOMENTUM
        return RMSPROP_CENTERED if self.centered else RMSPROP

    def rule_slots(self) -> tuple[str, ...]:
        return ("velocity",) + ("momentum",) * self._distopt_has_momentum + ("average_gradient",) * self.centered

    def rule_scalars(self, learning_rate: Any) -> Sequence[float]:
        scalars = (learning_rate, self.rho, 1 - self.rho, self.epsilon, 0.0)
        return (*scalars, self.momentum) if self._distopt_has_momentum else scalars
