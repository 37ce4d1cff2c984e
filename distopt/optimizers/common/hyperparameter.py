"""A number of an optimizer that may be changed between steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.variables.variable import Variable


class Hyperparameter(Variable):
    """A float32 Variable of an optimizer; ``optimizer.learning_rate *= 0.5`` sets the attribute to the product.

    For any other variable ``*=`` is an error, because the result would be lost; here the attribute keeps it.

    Args:
        value: a number.
        name: the variable's name.

    Example:
        >>> rate = Hyperparameter(0.5, "learning_rate")
        >>> rate *= 0.5
        >>> rate
        np.float32(0.25)
    """

    def __init__(self, value: float, name: str) -> None:
        super().__init__(np.float32(value), name=name, trainable=False)

    __iadd__, __isub__ = Variable.__add__, Variable.__sub__
    __imul__, __itruediv__ = Variable.__mul__, Variable.__truediv__

    def __reduce__(self) -> Any:
        return Hyperparameter, (float(self), self.name)
