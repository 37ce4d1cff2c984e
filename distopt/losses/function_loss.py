"""Losses made of a function: the reduction of its losses per example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from distopt.losses.loss import Loss
from distopt.losses.reduction import Reduction


class FunctionLoss(Loss):
    """The base of the losses that are a function of true and predicted values, reduced; not for users.

    Args:
        reduction: a `Reduction` or its name.
        name: for error messages; that of the function by default.
        dtype: the dtype to compute in; that of the predictions by default.
        arguments: further arguments of the function.
    """

    function: ClassVar[Callable[..., Any]]

    def __init__(
        self, reduction: Any = Reduction.AUTO, name: str | None = None, dtype: Any = None, **arguments: Any
    ) -> None:
        super().__init__(reduction, name or type(self).function.__name__, dtype)
        self.__dict__.update(arguments)
        self._arguments = arguments

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one loss per example."""
        return type(self).function(y_true, y_pred, **self._arguments)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of this loss."""
        return {**super().get_config(), **self._arguments}
