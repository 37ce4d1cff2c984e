"""The base of all losses."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from distopt.arrays import Array, to_dtype
from distopt.losses.operands import cast, floating_operand, operand, plain
from distopt.losses.reduction import Reduction, averaged, averaged_locally, elements_per_example, weighted


class Loss:
    """A function of true and predicted values whose parts on the replicas add up to the loss of one process.

    Gradients are *summed* over replicas, so each replica's loss must be its part of a sum. The default,
    ``Reduction.SUM_OVER_BATCH_SIZE``, divides by the count of the *global* batch:
    ``sum(loss * weight) / (global batch size * elements per example)``. No loss ever communicates; the count
    comes from ``global_batch_size=`` or from the current batch of ``distopt.data``.

    **The wrong way** is a local mean: ``np.mean(losses)`` on each of R replicas gives gradients that are R
    times too large once they are summed. Dividing by R mends this only where all replicas have equally many
    examples: with batches of 3 and 1 the single example counts as much as the three others together, and a
    replica without examples contributes NaN. The cure is one of

    - a `Loss` with the default reduction, in a loop over ``distopt.data.batches`` or ``distopt.data.join``;
    - ``global_batch_size=``, if the batches come from elsewhere and their common size is known;
    - ``Reduction.SUM``, and ``items=`` (the local number of examples) for ``minimize`` or
      ``apply_gradients``, which divide the summed gradients by the summed items.

    Pass a term that is the same on all replicas, such as an L2 penalty, through `scale_regularization_loss`.

    A subclass overrides ``call(y_true, y_pred)``, which returns one loss (or several) per example.

    Args:
        reduction: a `Reduction` or its name; None is ``Reduction.NONE``.
        name: for error messages; the name of the class by default.
        dtype: the dtype to compute in; that of the predictions by default.

    Raises:
        InvalidArgumentError: ``reduction`` is not known.

    Example:
        >>> class AbsoluteError(Loss):
        ...     def call(self, y_true, y_pred):
        ...         return np.abs(y_pred - y_true)
        >>> y_true, y_pred = np.array([1.0, 2.0]), np.array([3.0, 3.0])
        >>> AbsoluteError()(y_true, y_pred)
        np.float64(1.5)
        >>> AbsoluteError("sum")(y_true, y_pred, sample_weight=np.array([1.0, 0.5]))
        np.float64(2.5)

    Source: ``tf_keras.losses.Loss``, with the global instead of the local count.
    """

    def __init__(self, reduction: Any = Reduction.AUTO, name: str | None = None, dtype: Any = None) -> None:
        self.reduction = Reduction(reduction)
        self.name = type(self).__name__ if name is None else name
        self.dtype = None if dtype is None else to_dtype(dtype)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the losses, with examples on the first axis."""
        raise NotImplementedError(f"{type(self).__name__} is a Loss without call(y_true, y_pred).")

    def _mask_of(self, y_true: Any) -> Array | None:
        """Return where a loss counts; None where all do."""
        return None

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs to make this loss again."""
        dtype = {} if self.dtype is None else {"dtype": self.dtype.name}
        return {"name": self.name, "reduction": str(self.reduction), **dtype}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a loss from what ``get_config`` returned."""
        return cls(**config)

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, *, global_batch_size: int | None = None
    ) -> Any:
        """Return this replica's part of the reduced loss.

        Args:
            y_true: the true values, examples on the first axis; not mutated.
            y_pred: the predictions, likewise; they may be traced. Without any example the loss is 0.
            sample_weight: a scalar, or (examples,), or of the shape of the losses.
            global_batch_size: number of examples of all replicas together, where the reduction needs this number
                and no batch of ``distopt.data`` is current.

        Returns:
            A scalar, or the weighted losses for ``Reduction.NONE``, in the dtype of ``y_pred``; 16-bit losses
            are summed in float32 and rounded once.

        Raises:
            InvalidArgumentError: shapes that do not fit, or a global batch size that is needed and unknown.
        """
        if self.dtype is not None:
            y_pred = cast(operand(y_pred, "y_pred"), self.dtype)
        losses, dtype = floating_operand(self.call(y_true, y_pred), f"what {self.name}.call returned")
        losses = weighted(losses, sample_weight)
        mask = self._mask_of(y_true)
        match self.reduction:
            case Reduction.NONE:
                return cast(losses, dtype)
            case Reduction.SUM:
                return cast(np.sum(losses), dtype)
            case Reduction.MEAN_WITH_SAMPLE_WEIGHT if sample_weight is not None:
                weights = plain(sample_weight)
                count = np.sum(weights if mask is None else mask * weights)
                return averaged_locally(losses, dtype, count, self.name, "the sum of the weights")
            case _ if mask is not None:
                return averaged_locally(losses, dtype, mask.sum(), self.name, "the number of losses that count")
            case _:
                return averaged(losses, dtype, global_batch_size, self.name, per=elements_per_example(losses))
