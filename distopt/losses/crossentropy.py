"""The cross-entropies, from logits (numerically stable) or from probabilities (clipped)."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.errors import InvalidArgumentError
from distopt.losses.operands import (
    cast,
    floating_operand,
    matching_operands,
    mean_per_example,
    plain,
)

_EPSILON = 1e-7


def binary_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Any:
    """Return ``mean(-y log(p) - (1 - y) log(1 - p), axis=-1)``.

    From logits z: ``log(1 + exp(z)) - y z``, without overflow. Probabilities are clipped to [1e-7, 1 - 1e-7].

    Args:
        y_true: (examples, ..., outputs) of 0 to 1, or (examples,), one output each: nothing is averaged.
        y_pred: of the same shape, floating; it may be traced.
        from_logits: whether ``y_pred`` are logits.
        label_smoothing: s moves labels towards one half: ``y (1 - s) + s / 2``.
        axis: the axis of the mean.

    Returns:
        (examples, ...), in the dtype of ``y_pred``; 16 bits are computed in float32.

    Raises:
        InvalidArgumentError: the shapes differ; ``y_true`` or probabilities outside of 0 to 1.

    Example:
        >>> binary_crossentropy(np.array([1.0, 0.0]), np.array([0.0, 800.0]), from_logits=True).round(2)
        array([6.9e-01, 8.0e+02])

    Source: Keras 3, ``keras.losses.binary_crossentropy``.
    """
    y_true, y_pred, dtype = matching_operands(y_true, y_pred, "binary_crossentropy")
    _check_range("y_true", y_true, 1)
    y_true = y_true * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else y_true
    if from_logits:
        logits = _without_certain(y_true, y_pred)
        losses = np.logaddexp(logits, 0) - _product(y_true, logits)
    else:
        _check_range("y_pred", y_pred, 1)
        p = np.clip(y_pred, _EPSILON, 1 - _EPSILON)
        losses = -(y_true * np.log(p) + (1 - y_true) * np.log(1 - p))
    return cast(np.mean(losses, axis=axis) if axis != -1 else mean_per_example(losses), dtype)


def categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Any:
    """Return ``-sum(y_true * log(p), axis=-1)``.

    From logits: p is their softmax. Probabilities are divided by their sum and clipped to [1e-7, 1 - 1e-7].

    Args:
        y_true: (examples, ..., classes), the probability of each class (one-hot rows, most often).
        y_pred: of the same shape, floating; it may be traced.
        from_logits: whether ``y_pred`` are logits.
        label_smoothing: s moves probabilities towards equal ones: ``y (1 - s) + s / classes``.
        axis: the axis of the classes.

    Returns:
        (examples, ...), in the dtype of ``y_pred``; 16 bits are computed in float32.

    Raises:
        InvalidArgumentError: the shapes differ; ``y_true`` outside of 0 to 1; negative probabilities.

    Example:
        >>> categorical_crossentropy(np.array([[0, 1]]), np.array([[1.0, 1.0]]), from_logits=True).round(4)
        array([0.6931])

    Source: Keras 3, ``keras.losses.categorical_crossentropy``.
    """
    y_true, y_pred, dtype = matching_operands(y_true, y_pred, "categorical_crossentropy")
    _check_range("y_true", y_true, 1)
    if axis != -1:
        y_true, y_pred = np.moveaxis(y_true, axis, -1), np.moveaxis(y_pred, axis, -1)
    y_true = y_true * (1 - label_smoothing) + label_smoothing / y_pred.shape[-1] if label_smoothing else y_true
    return cast(-np.sum(_product(y_true, _log_probabilities(y_pred, from_logits)), axis=-1), dtype)


def sparse_categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1
) -> Any:
    """Return ``-log(p[y_true])``, with p as in `categorical_crossentropy`.

    Args:
        y_true: (examples, ...) integers, the number of the true class; or (examples, ..., 1).
        y_pred: (examples, ..., classes), floating; it may be traced.
        from_logits: whether ``y_pred`` are logits.
        ignore_class: a label whose losses are 0, such as -1; the mean of the loss class leaves them out.
        axis: the axis of the classes.

    Returns:
        (examples, ...), in the dtype of ``y_pred``; 16 bits are computed in float32.

    Raises:
        InvalidArgumentError: the shapes do not fit; a label is no integer, or is not the number of a class;
            negative probabilities.

    Example:
        >>> sparse_categorical_crossentropy(np.array([1]), np.array([[1.0, 1.0]]), from_logits=True).round(4)
        array([0.6931])

    Source: Keras 3, ``keras.losses.sparse_categorical_crossentropy``.
    """
    y_pred, dtype = floating_operand(y_pred, "y_pred")
    y_pred = np.moveaxis(y_pred, axis, -1) if axis != -1 else y_pred
    given = plain(y_true)
    ignored = np.zeros(given.shape, bool) if ignore_class is None else given == ignore_class
    labels = _labels(np.where(ignored, 0, given) if ignore_class is not None else given, y_pred.shape)
    is_true = labels[..., np.newaxis] == np.arange(y_pred.shape[-1])
    is_true &= ~ignored.reshape(labels.shape)[..., np.newaxis]
    return cast(-np.sum(np.where(is_true, _log_probabilities(y_pred, from_logits), 0), axis=-1), dtype)


def _log_probabilities(y_pred: Any, from_logits: bool) -> Any:
    """Return the logarithm of the probability of each class on the last axis."""
    if y_pred.ndim < 2 or y_pred.shape[-1] == 0:
        raise InvalidArgumentError(
            f"y_pred has shape {y_pred.shape}; expected examples on the first axis and classes on the last."
        )
    if from_logits:
        shifted = y_pred - np.max(y_pred, axis=-1, keepdims=True)
        return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))
    _check_range("y_pred", y_pred, np.inf)
    p = y_pred / np.sum(y_pred, axis=-1, keepdims=True)
    return np.log(np.clip(p, _EPSILON, 1 - _EPSILON))


def _product(y_true: Any, factor: Any) -> Any:
    """Return ``y_true * factor``, where 0 times infinity is 0: what has probability 0 adds nothing."""
    infinite = np.isinf(plain(factor))
    if not infinite.any():
        return y_true * factor
    return y_true * np.where(infinite & (plain(y_true) == 0), 0, factor)


def _without_certain(y_true: Any, logits: Any) -> Any:
    """Return logits, where an infinite one that is right is a large one: its loss is 0, not the NaN of ∞ - ∞."""
    values = plain(logits)
    infinite = np.isinf(values)
    if not infinite.any():
        return logits
    return np.where(infinite & (plain(y_true) == (values > 0)), np.sign(values) * 1000, logits)


def _check_range(what: str, value: Any, greatest: float) -> None:
    array = plain(value)
    if array.size and (array.min() < 0 or array.max() > greatest):
        cure = " Logits need from_logits=True." if what == "y_pred" else " Labels are 0 and 1, not -1 and 1."
        raise InvalidArgumentError(
            f"{what} must be probabilities, received values from {array.min()} to {array.max()}.{cure}"
        )


def _labels(labels: Any, shape: tuple[int, ...]) -> Any:
    """Return labels in the shape that fits predictions of ``shape``, after checking every label."""
    if labels.shape == (*shape[:-1], 1):
        labels = np.reshape(labels, shape[:-1])
    if labels.shape != shape[:-1]:
        raise InvalidArgumentError(
            f"sparse_categorical_crossentropy: y_true has shape {labels.shape} and y_pred {shape}; expected"
            f" one label per row of classes, {shape[:-1]}. One-hot rows go with CategoricalCrossentropy."
        )
    if labels.dtype.kind not in "iu":
        raise InvalidArgumentError(
            f"sparse_categorical_crossentropy: y_true has dtype {labels.dtype}; the numbers of classes are"
            " integers: y_true.astype('int64')."
        )
    if labels.size and (labels.min() < 0 or labels.max() >= shape[-1]):
        raise InvalidArgumentError(
            f"sparse_categorical_crossentropy: labels from {labels.min()} to {labels.max()}, but there are"
            f" {shape[-1]} classes, 0 to {shape[-1] - 1}."
        )
    return labels
