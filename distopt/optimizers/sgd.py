"""Stochastic gradient descent, Keras 3 family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distopt.errors import InvalidArgumentError
from distopt.kernels import MOMENTUM, NESTEROV, Rule
from distopt.kernels import SGD as PLAIN
from distopt.optimizers.arguments import within
from distopt.optimizers.optimizer import Optimizer
from distopt.variable import Variable


class SGD(Optimizer):
    """Gradient descent, with momentum.

    Without momentum ``w ← w - lr g``; with it ``a ← μ a - lr g`` and ``w ← w + a``, or, with Nesterov,
    ``w ← w + μ a - lr g``. A sparse gradient acts as the dense one with zeros elsewhere: with momentum every row moves
    (in the legacy family only the rows that it names).

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        momentum: μ, 0 to 1.
        nesterov: whether to use Nesterov's form.
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

    _rule_hyperparameters = ("momentum",)

    def __init__(self, learning_rate: Any = 0.01, momentum: float = 0.0, nesterov: bool = False, **kwargs: Any) -> None:
        super().__init__(learning_rate, **kwargs)
        self.momentum = within("SGD", "momentum", momentum, 0, 1)
        if not isinstance(nesterov, bool):
            raise InvalidArgumentError(f"SGD(nesterov={nesterov!r}): expected True or False")
        self.nesterov = nesterov
        self._has_momentum = self.momentum != 0

    def build(self, variables: Sequence[Variable]) -> None:
        """Make the momentum of every variable."""
        if self.built:
            return
        super().build(variables)
        if self._has_momentum:
            self.momentums = [self.add_variable_from_reference(v, "momentum") for v in variables]

    def _rule(self) -> Rule:
        if not self._has_momentum:
            return PLAIN
        return NESTEROV if self.nesterov else MOMENTUM

    def _slot_labels(self) -> tuple[str, ...]:
        return ("momentum",) if self._has_momentum else ()

    def _scalars(self, learning_rate: Any) -> Sequence[float]:
        return (learning_rate, self.momentum) if self._has_momentum else (learning_rate,)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs."""
        return super().get_config() | {"momentum": self.momentum, "nesterov": self.nesterov}
