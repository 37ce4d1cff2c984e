"""Stochastic gradient descent, legacy family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distopt.kernels import Rule
from distopt.optimizers.legacy.base.momentum import WithMomentum
from distopt.optimizers.sgd import DESCENT, MOMENTUM, NESTEROV


class SGD(WithMomentum):
    """Gradient descent, with momentum.

    Without momentum ``w ← w - lr g``; with it ``a ← μ a - lr g`` and ``w ← w + a``, or, with Nesterov,
    ``w ← w + μ a - lr g``. Sparse gradients move the rows that they name, in w and in a.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        momentum: μ, 0 to 1; what is given here decides whether momentum is used at all.
        nesterov: whether to use Nesterov's form.
        name: the optimizer's name.
        **kwargs: the arguments of ``Optimizer``.

    Example:
        >>> import distopt
        >>> v = distopt.Variable([1.0])
        >>> sgd = SGD(learning_rate=0.1, momentum=0.9)
        >>> for _ in range(2):
        ...     _ = sgd.apply_gradients([([1.0], v)])
        >>> v.numpy().round(4), sgd.get_slot(v, "momentum").numpy().round(4)
        (array([0.71], dtype=float32), array([-0.19], dtype=float32))

    Source: ``tf_keras.optimizers.legacy.SGD``. The learning rate is inside the momentum (in PyTorch it is outside).
    """

    _distopt_arguments = ("learning_rate", "decay", "momentum", "nesterov")
    _distopt_fractions = ("momentum",)

    def __init__(
        self, learning_rate: Any = 0.01, momentum: Any = 0.0, nesterov: bool = False, name: str = "SGD", **kwargs: Any
    ) -> None:
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("momentum", momentum)
        self.nesterov = bool(nesterov)

    def update_rule(self) -> Rule:
        if not self._momentum:
            return DESCENT
        return NESTEROV if self.nesterov else MOMENTUM

    @property
    def _distopt_only_adds_rows(self) -> bool:
        return not self._momentum

    def rule_slots(self) -> tuple[str, ...]:
        return ("momentum",) if self._momentum else ()

    def rule_scalars(self, local: dict[str, Any]) -> Sequence[float]:
        return (local["lr_t"], local["momentum"]) if self._momentum else (local["lr_t"],)
