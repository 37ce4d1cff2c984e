"""Reduces one loss per example to one number: sums the losses, and divides by the right count."""

from __future__ import annotations

import math
import operator
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

import numpy as np

from distopt.data.current import current_batch
from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError
from distopt.losses.operands import cast, floating_operand, operand
from distopt.process.replica import current_replica
from distopt.variables.array_like import Traced


class Reduction(StrEnum):
    """The way in which a `Loss` makes one number of its losses per example.

    ===========================  ==================================================================
    ``NONE``                     no reduction: one loss per example
    ``SUM``                      ``sum(loss * weight)``
    ``SUM_OVER_BATCH_SIZE``      ``sum(loss * weight) / (global batch size * elements per example)``
    ``AUTO``                     the same as ``SUM_OVER_BATCH_SIZE``; so is Keras' "mean"
    ``MEAN_WITH_SAMPLE_WEIGHT``  ``sum(loss * weight) / sum(weight)``; weights on one replica only
    ===========================  ==================================================================

    Example:
        >>> Reduction("sum") is Reduction.SUM
        True

    Source: the names of tf_keras, ``tf.keras.losses.Reduction``.
    """

    AUTO = "auto"
    NONE = "none"
    SUM = "sum"
    SUM_OVER_BATCH_SIZE = "sum_over_batch_size"
    MEAN_WITH_SAMPLE_WEIGHT = "mean_with_sample_weight"

    @classmethod
    def _missing_(cls, value: object) -> Reduction:
        if value is None:
            return cls.NONE
        if value == "mean":
            return cls.SUM_OVER_BATCH_SIZE
        nearest = get_close_matches(str(value), [str(key) for key in cls], n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise InvalidArgumentError(f"Invalid Reduction Key: {value!r}. Expected one of {', '.join(cls)}.{hint}")


def compute_average_loss(per_example_loss: Any, sample_weight: Any = None, global_batch_size: int | None = None) -> Any:
    """Return this replica's part of the mean loss over the global batch.

    ``sum(per_example_loss * sample_weight) / global_batch_size``: the parts of all replicas add up to the
    mean, and so do their gradients. The sum is not divided by the sum of the weights, nor by the lengths of axes
    after the first.

    Args:
        per_example_loss: floating, (examples, ...); no example gives 0; not mutated.
        sample_weight: a scalar, or (examples,), or of the shape of the losses. This is the second positional
            argument, so give the batch size by its name.
        global_batch_size: number of examples of all replicas together; by default that of the current batch of
            ``distopt.data``, or with one replica the number of losses.

    Returns:
        A scalar in the dtype of the losses.

    Raises:
        InvalidArgumentError: a scalar loss, weights that do not fit, an impossible ``global_batch_size``, or
            more than one replica and no known ``global_batch_size``.

    Example:
        >>> compute_average_loss(np.array([1.0, 2.0, 3.0]), global_batch_size=6)
        np.float64(1.0)

    Source: ``tf.nn.compute_average_loss``, except for the default of the global batch size: local size times
    replicas, as there, is wrong where batches are uneven.
    """
    losses, dtype = floating_operand(per_example_loss, "per_example_loss")
    losses = weighted(losses, sample_weight)
    return averaged(losses, dtype, global_batch_size, "compute_average_loss")


def scale_regularization_loss(regularization_loss: Any) -> Any:
    """Return this replica's part of a loss that is the same on all replicas, such as an L2 term.

    ``sum(regularization_loss) / number of replicas``: the parts add up to the term, once.

    Args:
        regularization_loss: a scalar, or an array of terms, which are added; not mutated.

    Returns:
        A scalar in the dtype of the argument.

    Example:
        >>> scale_regularization_loss(np.float32(0.5))
        np.float32(0.5)

    Source: ``tf.nn.scale_regularization_loss``.
    """
    terms, dtype = floating_operand(regularization_loss, "regularization_loss")
    return cast(np.sum(terms) / get_strategy().num_replicas_in_sync, dtype)


def weighted(losses: Any, sample_weight: Any) -> Any:
    """Return ``losses * sample_weight``; weights gain or lose a trailing axis of length 1 where that fits."""
    if sample_weight is None:
        return losses
    weights = cast(operand(sample_weight, "sample_weight"), losses.dtype)
    if weights.ndim == losses.ndim + 1 and weights.shape[-1] == 1:
        weights = np.reshape(weights, weights.shape[:-1])
    elif 0 < weights.ndim == losses.ndim - 1:
        weights = np.reshape(weights, (*weights.shape, 1))
    fits = weights.shape[:1] == losses.shape[:1] and weights.ndim == losses.ndim
    if weights.ndim > 0 and not (
        fits and all(size in (1, full) for size, full in zip(weights.shape, losses.shape, strict=True))
    ):
        raise InvalidArgumentError(
            f"sample_weight of shape {weights.shape} does not fit losses of shape {losses.shape}: give"
            f" one number, one weight per example ({losses.shape[:1]}) or one per loss."
        )
    return losses * weights


def averaged(losses: Any, dtype: np.dtype[Any], global_batch_size: int | None, name: str, per: int = 1) -> Any:
    """Return ``sum(losses) / (global batch size * per)`` and remember that a traced loss was averaged."""
    if losses.ndim == 0:
        raise InvalidArgumentError(
            f"{name}: the losses are a single number, and nobody can know how many examples it stands for."
            " Give one loss per example, or use Reduction.SUM with minimize(..., items=n)."
        )
    count = _global_count(losses.shape[0], global_batch_size, name)
    result = cast(np.sum(losses) / max(count * per, 1), dtype)
    if isinstance(result, Traced):
        current_replica().of_thread.averaged_loss = name
    return result


def averaged_locally(losses: Any, dtype: np.dtype[Any], count: Any, name: str, what: str) -> Any:
    """Return ``sum(losses) / count``, 0 for a count of 0, where this replica is the only one.

    Raises:
        InvalidArgumentError: other replicas have counts of their own, which a loss can't know.
    """
    if get_strategy().num_replicas_in_sync > 1:
        raise InvalidArgumentError(
            f"{name}: its average divides by {what} of all replicas, and a loss never communicates. Take "
            f"Reduction.SUM, and give minimize(..., items=) {what} of this replica"
        )
    result = cast(np.sum(losses) / np.asarray(count or 1, losses.dtype), dtype)
    if isinstance(result, Traced):
        current_replica().of_thread.averaged_loss = name
    return result


def elements_per_example(losses: Any) -> int:
    """Return the number of losses of each example."""
    return math.prod(losses.shape[1:])


def _global_count(local: int, global_batch_size: int | None, name: str) -> int:
    if global_batch_size is not None:
        return _checked(local, global_batch_size, name)
    replicas = get_strategy().num_replicas_in_sync
    if replicas == 1:
        return local
    batch = current_batch()
    if batch is None:
        raise InvalidArgumentError(
            f"{name}: with {replicas} replicas the size of the global batch must be known, and no batch of"
            " distopt.data is current. Iterate over distopt.data.batches(...) or distopt.data.join(...), or"
            " pass global_batch_size=, or take Reduction.SUM and items=."
        )
    if batch.items != local:
        raise InvalidArgumentError(
            f"{name}: {local} examples, while this replica holds {batch.items} of the {batch.global_size} in the"
            " current batch of distopt.data. If they are not those of the batch, pass global_batch_size=."
        )
    return batch.global_size


def _checked(local: int, global_batch_size: Any, name: str) -> int:
    try:
        count = operator.index(global_batch_size)
    except TypeError:
        count = -1
    if isinstance(global_batch_size, bool) or count < local:
        raise InvalidArgumentError(
            f"{name}: global_batch_size counts the examples of all replicas, so it is an integer not below"
            f" the {local} of this one; received {global_batch_size!r}."
        )
    return count
