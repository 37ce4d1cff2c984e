"""The cross-entropies as losses: their functions, reduced."""

from __future__ import annotations

from typing import Any

from distopt.arrays import Array
from distopt.losses.crossentropy import (
    binary_crossentropy,
    categorical_crossentropy,
    sparse_categorical_crossentropy,
)
from distopt.losses.function_loss import FunctionLoss
from distopt.losses.operands import plain
from distopt.losses.reduction import Reduction


class BinaryCrossentropy(FunctionLoss):
    """The cross-entropy of yes-or-no outputs: `binary_crossentropy`, reduced.

    Args:
        from_logits: whether predictions are logits; else they are probabilities.
        label_smoothing: s moves labels towards one half: ``y (1 - s) + s / 2``.
        axis: the axis of the mean over outputs.
        reduction: a `Reduction` or its name.
        name: for error messages.
        dtype: the dtype to compute in; that of the predictions by default.

    Raises:
        InvalidArgumentError: ``reduction`` is not known.

    Example:
        >>> import numpy as np
        >>> BinaryCrossentropy(from_logits=True)(np.array([1, 0]), np.array([0.0, 0.0])).round(4)
        np.float64(0.6931)

    Source: Keras 3, ``keras.losses.BinaryCrossentropy``.
    """

    function = staticmethod(binary_crossentropy)

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Any = Reduction.AUTO,
        name: str = "binary_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(reduction, name, dtype, from_logits=from_logits, label_smoothing=label_smoothing, axis=axis)


class CategoricalCrossentropy(FunctionLoss):
    """The cross-entropy of one-hot classes: `categorical_crossentropy`, reduced.

    Args:
        from_logits: whether predictions are logits; else they are probabilities.
        label_smoothing: s moves probabilities towards equal ones: ``y (1 - s) + s / classes``.
        axis: the axis of the classes.
        reduction: a `Reduction` or its name.
        name: for error messages.
        dtype: the dtype to compute in; that of the predictions by default.

    Raises:
        InvalidArgumentError: ``reduction`` is not known.

    Example:
        >>> import numpy as np
        >>> CategoricalCrossentropy()(np.array([[0, 1]]), np.array([[0.5, 0.5]])).round(4)
        np.float64(0.6931)

    Source: Keras 3, ``keras.losses.CategoricalCrossentropy``.
    """

    function = staticmethod(categorical_crossentropy)

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Any = Reduction.AUTO,
        name: str = "categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(reduction, name, dtype, from_logits=from_logits, label_smoothing=label_smoothing, axis=axis)


class SparseCategoricalCrossentropy(FunctionLoss):
    """The cross-entropy of numbered classes: `sparse_categorical_crossentropy`, reduced.

    Args:
        from_logits: whether predictions are logits; else they are probabilities.
        ignore_class: a label that does not count, such as -1.
        reduction: a `Reduction` or its name.
        axis: the axis of the classes.
        name: for error messages.
        dtype: the dtype to compute in; that of the predictions by default.

    Raises:
        InvalidArgumentError: ``reduction`` is not known; called: a mean that leaves out ``ignore_class``, with several
            replicas.

    Example:
        >>> import numpy as np
        >>> SparseCategoricalCrossentropy()(np.array([1]), np.array([[0.5, 0.5]])).round(4)
        np.float64(0.6931)

    Source: Keras 3, ``keras.losses.SparseCategoricalCrossentropy``.
    """

    function = staticmethod(sparse_categorical_crossentropy)

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: Any = Reduction.AUTO,
        axis: int = -1,
        name: str = "sparse_categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(reduction, name, dtype, from_logits=from_logits, ignore_class=ignore_class, axis=axis)
        self._ignored = ignore_class

    def _mask_of(self, y_true: Any) -> Array | None:
        return None if self._ignored is None else plain(y_true) != self._ignored
