"""The mean squared error."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.losses.function_loss import FunctionLoss
from distopt.losses.operands import cast, matching_operands, mean_per_example


def mean_squared_error(y_true: Any, y_pred: Any) -> Any:
    """Return ``mean((y_pred - y_true) ** 2, axis=-1)``.

    Args:
        y_true: (examples, ..., outputs), or (examples,), one output each: nothing is averaged.
        y_pred: of the same shape, floating; it may be traced.

    Returns:
        (examples, ...), in the dtype of ``y_pred``; 16 bits are computed in float32.

    Raises:
        InvalidArgumentError: the shapes differ (there is no broadcasting).

    Example:
        >>> mean_squared_error(np.array([[0.0, 1.0]]), np.array([[2.0, 1.0]]))
        array([2.])

    Source: Keras 3, ``keras.losses.mean_squared_error``; there (examples,) would be averaged over examples.
    """
    y_true, y_pred, dtype = matching_operands(y_true, y_pred, "mean_squared_error")
    return cast(mean_per_example(np.square(y_pred - y_true)), dtype)


class MeanSquaredError(FunctionLoss):
    """The mean of the squared errors: `mean_squared_error`, reduced.

    Args:
        reduction: a `Reduction` or its name.
        name: for error messages.
        dtype: the dtype to compute in; that of the predictions by default.

    Raises:
        InvalidArgumentError: ``reduction`` is not known.

    Example:
        >>> MeanSquaredError()(np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[2.0, 1.0], [0.0, 0.0]]))
        np.float64(1.0)

    Source: Keras 3, ``keras.losses.MeanSquaredError``.
    """

    function = staticmethod(mean_squared_error)
