"""Hinge losses: labels are -1 and 1; where all of them are 0 and 1, 0 stands for -1."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.losses.function_loss import FunctionLoss
from distopt.losses.operands import cast, matching_operands, mean_per_example, plain


def hinge(y_true: Any, y_pred: Any) -> Any:
    """Return ``mean(max(1 - y_true * y_pred, 0), axis=-1)``."""
    y_true, y_pred, dtype = matching_operands(y_true, y_pred, "hinge")
    return cast(mean_per_example(np.maximum(1 - _signs(y_true) * y_pred, 0)), dtype)


def squared_hinge(y_true: Any, y_pred: Any) -> Any:
    """Return ``mean(max(1 - y_true * y_pred, 0) ** 2, axis=-1)``."""
    y_true, y_pred, dtype = matching_operands(y_true, y_pred, "squared_hinge")
    return cast(mean_per_example(np.square(np.maximum(1 - _signs(y_true) * y_pred, 0))), dtype)


def categorical_hinge(y_true: Any, y_pred: Any) -> Any:
    """Return ``max(neg - pos + 1, 0)``: pos is the prediction of the true class, neg the greatest of another one."""
    y_true, y_pred, dtype = matching_operands(y_true, y_pred, "categorical_hinge")
    right = np.sum(y_true * y_pred, axis=-1)
    return cast(np.maximum(np.max((1 - y_true) * y_pred, axis=-1) - right + 1, 0), dtype)


def _signs(labels: Any) -> Any:
    values = plain(labels)
    return 2 * labels - 1 if np.all((values == 0) | (values == 1)) else labels


class Hinge(FunctionLoss):
    """The hinge loss: `hinge`, reduced; arguments as of `MeanSquaredError`."""

    function = staticmethod(hinge)


class SquaredHinge(FunctionLoss):
    """The squared hinge loss: `squared_hinge`, reduced."""

    function = staticmethod(squared_hinge)


class CategoricalHinge(FunctionLoss):
    """The hinge loss of several classes: `categorical_hinge`, reduced."""

    function = staticmethod(categorical_hinge)
