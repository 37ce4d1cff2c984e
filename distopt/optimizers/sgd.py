"""Stochastic gradient descent, Keras 3 family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distopt.arguments import flag, within
from distopt.kernels import Array, Rule, Scalar
from distopt.optimizers.keras3.optimizer import Optimizer


def _sgd(p: Array, g: Array, learning_rate: Scalar) -> None:
    p -= learning_rate * g


DESCENT = Rule(
    name="sgd",
    slots=(),
    scalars=("learning_rate",),
    sparse="rows",
    reference=_sgd,
    body="p -= learning_rate * g",
)


def _momentum(p: Array, g: Array, velocity: Array, learning_rate: Scalar, momentum: Scalar) -> None:
    velocity[...] = momentum * velocity - learning_rate * g
    p += velocity


MOMENTUM = Rule(
    name="momentum",
    slots=("velocity",),
    scalars=("learning_rate", "momentum"),
    sparse="rows",
    reference=_momentum,
    body="""\
velocity = momentum * velocity - learning_rate * g
p += velocity""",
)


def _nesterov(p: Array, g: Array, velocity: Array, learning_rate: Scalar, momentum: Scalar) -> None:
    velocity[...] = momentum * velocity - learning_rate * g
    p += momentum * velocity - learning_rate * g


NESTEROV = Rule(
    name="nesterov",
    slots=("velocity",),
    scalars=("learning_rate", "momentum"),
    sparse="rows",
    reference=_nesterov,
    body="""\
velocity = momentum * velocity - learning_rate * g
p += momentum * velocity - learning_rate * g""",
)


class SGD(Optimizer):
    """Gradient descent, with momentum.

    Without momentum ``w ← w - lr g``; with it ``a ← μ a - lr g`` and ``w ← w + a``, or, with Nesterov,
    ``w ← w + μ a - lr g``. A sparse gradient acts as the dense one with zeros elsewhere: with momentum every row moves
    (in the legacy family only the rows that it names).

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        momentum: μ, 0 to 1.
        nesterov: whether to use Nesterov's form.
        *options: the arguments of ``Optimizer`` by position, from ``weight_decay``.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: momentum outside 0 to 1; any argument that ``Optimizer`` refuses.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([1.0])
        >>> sgd = SGD(learning_rate=0.1, momentum=0.9)
        >>> for _ in range(2):
        ...     _ = sgd.apply_gradients([([1.0], w)])
        >>> w.numpy().round(4)
        array([0.71], dtype=float32)

    Source: Keras 3 ``keras.optimizers.SGD``. The learning rate is inside the momentum (in PyTorch it is outside).
    """

    _distopt_hyperparameters = ("momentum", "nesterov")
    _distopt_slot_lists = (("momentum", "momentums"),)

    def __init__(
        self, learning_rate: Any = 0.01, momentum: float = 0.0, nesterov: bool = False, *options: Any, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, *options, **kwargs)
        self.momentum = within("SGD", "momentum", momentum, 0, 1)
        self.nesterov = flag("SGD", "nesterov", nesterov)

    @property
    def _distopt_has_momentum(self) -> bool:
        return self.momentum != 0

    def update_rule(self) -> Rule:
        if not self._distopt_has_momentum:
            return DESCENT
        return NESTEROV if self.nesterov else MOMENTUM

    def rule_slots(self) -> tuple[str, ...]:
        return ("momentum",) if self._distopt_has_momentum else ()

    def rule_scalars(self, learning_rate: Any) -> Sequence[float]:
        return (learning_rate, self.momentum) if self._distopt_has_momentum else (learning_rate,)
