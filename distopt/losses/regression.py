"""Losses of numbers: distances between true and predicted values, and between their distributions."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.losses.function_loss import FunctionLoss
from distopt.losses.operands import cast, matching_operands, mean_per_example
from distopt.losses.reduction import Reduction

_EPSILON = 1e-7


def mean_absolute_error(y_true: Any, y_pred: Any) -> Any:
    """Return ``mean(|y_pred - y_true|, axis=-1)``."""
    y_true, y_pred, dtype = matching_operands(y_true, y_pred, "mean_absolute_error")
    return cast(mean_per_example(np.abs(y_pred - y_true)), dtype)


def mean_absolute_percentage_error(y_true: Any, y_pred: Any) -> Any:
    """Return ``100 * mean(|y_true - y_pred| / max(|y_true|, 1e-7), axis=-1)``."""
    y_true, y_pred, dtype = matching_operands(y_true, y_pred, "mean_absolute_percentage_error")
    return cast(100 * mean_per_example(np.abs(y_true - y_pred) / np.maximum(np.abs(y_true), _EPSILON)), dtype)


def mean_squared_logarithmic_error(y_true: Any, y_pred: Any) -> Any:
    """Return ``mean((log(1 + y_true) - log(1 + y_pred)) ** 2, axis=-1)``; both count as at least 1e-7."""
    y_true, y_pred, dtype = matching_operands(y_true, y_pred, "mean_squared_logarithmic_error")
    difference = np.log(np.maximum(y_true, _EPSILON) + 1) - np.log(np.maximum(y_pred, _EPSILON) + 1)
    return cast(mean_per_example(np.square(difference)), dtype)


def huber(y_true: Any, y_pred: Any, delta: float = 1.0) -> Any:
    """Return the mean of ``e² / 2``, and of ``delta * (|e| - delta / 2)`` where the error e is above ``delta``."""
    y_true, y_pred, dtype = matching_operands(y_true, y_pred, "huber")
    error = y_pred - y_true
    far = np.abs(error) > delta
    return cast(mean_per_example(np.where(far, delta * np.abs(error) - delta**2 / 2, np.square(error) / 2)), dtype)


def log_cosh(y_true: Any, y_pred: Any) -> Any:
    """Return ``mean(log(cosh(y_pred - y_true)), axis=-1)``, without overflow."""
    y_true, y_pred, dtype = matching_operands(y_true, y_pred, "log_cosh")
    error = y_pred - y_true
    return cast(mean_per_example(np.logaddexp(error, -error) - np.log(2).astype(error.dtype)), dtype)


def kl_divergence(y_true: Any, y_pred: Any) -> Any:
    """Return ``sum(y_true * log(y_true / y_pred), axis=-1)``; both are clipped to [1e-7, 1]."""
    y_true, y_pred, dtype = matching_operands(y_true, y_pred, "kl_divergence")
    p, q = np.clip(y_true, _EPSILON, 1), np.clip(y_pred, _EPSILON, 1)
    return cast(np.sum(p * np.log(p / q), axis=-1), dtype)


def poisson(y_true: Any, y_pred: Any) -> Any:
    """Return ``mean(y_pred - y_true * log(y_pred + 1e-7), axis=-1)``."""
    y_true, y_pred, dtype = matching_operands(y_true, y_pred, "poisson")
    return cast(mean_per_example(y_pred - y_true * np.log(y_pred + _EPSILON)), dtype)


def cosine_similarity(y_true: Any, y_pred: Any, axis: int = -1) -> Any:
    """Return minus the cosine of the angle between vectors along ``axis``; 0 for a vector of zeros."""
    y_true, y_pred, dtype = matching_operands(y_true, y_pred, "cosine_similarity")
    return cast(-np.sum(_unit(y_true, axis) * _unit(y_pred, axis), axis=axis), dtype)


def _unit(vectors: Any, axis: int) -> Any:
    squares = np.sum(np.square(vectors), axis=axis, keepdims=True)
    return vectors / np.sqrt(np.maximum(squares, _EPSILON**2))


class MeanAbsoluteError(FunctionLoss):
    """The mean of the absolute errors: `mean_absolute_error`, reduced; arguments as of `MeanSquaredError`."""

    function = staticmethod(mean_absolute_error)


class MeanAbsolutePercentageError(FunctionLoss):
    """The mean of the relative errors in percent: `mean_absolute_percentage_error`, reduced."""

    function = staticmethod(mean_absolute_percentage_error)


class MeanSquaredLogarithmicError(FunctionLoss):
    """The mean of the squared errors of logarithms: `mean_squared_logarithmic_error`, reduced."""

    function = staticmethod(mean_squared_logarithmic_error)


class LogCosh(FunctionLoss):
    """The mean of the logarithms of the errors' hyperbolic cosines: `log_cosh`, reduced."""

    function = staticmethod(log_cosh)


class KLDivergence(FunctionLoss):
    """The divergence of Kullback and Leibler: `kl_divergence`, reduced."""

    function = staticmethod(kl_divergence)


class Poisson(FunctionLoss):
    """The loss of counts: `poisson`, reduced."""

    function = staticmethod(poisson)


class Huber(FunctionLoss):
    """The mean of errors that are squared where they are small: `huber`, reduced.

    Args:
        delta: the error from which on the loss grows in a straight line.
        reduction: a `Reduction` or its name.
        name: for error messages.
        dtype: the dtype to compute in; that of the predictions by default.

    Example:
        >>> Huber()(np.array([0.0, 0.0]), np.array([1.0, 3.0]))
        np.float64(1.5)

    Source: Keras 3, ``keras.losses.Huber``.
    """

    function = staticmethod(huber)

    def __init__(
        self, delta: float = 1.0, reduction: Any = Reduction.AUTO, name: str = "huber_loss", dtype: Any = None
    ) -> None:
        super().__init__(reduction, name, dtype, delta=delta)


class CosineSimilarity(FunctionLoss):
    """The cosine of the angle between vectors, with a minus: `cosine_similarity`, reduced.

    Args:
        axis: the axis that vectors run along.
        reduction: a `Reduction` or its name.
        name: for error messages.
        dtype: the dtype to compute in; that of the predictions by default.

    Source: Keras 3, ``keras.losses.CosineSimilarity``.
    """

    function = staticmethod(cosine_similarity)

    def __init__(
        self, axis: int = -1, reduction: Any = Reduction.AUTO, name: str = "cosine_similarity", dtype: Any = None
    ) -> None:
        super().__init__(reduction, name, dtype, axis=axis)
