"""Numbers to print and to log: counted on each replica, and put together over all of them when they are asked for.

``update`` and ``reset`` are local: a replica may call them as often as it has something to count, also never.
``result`` is collective: every replica calls it, and each gets the same number, however uneven their shares were.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distopt.arguments import LARGEST, SMALLEST, as_float
from distopt.arrays import Array, to_array
from distopt.distribute.belonging import Belonging, in_own_scope
from distopt.distribute.collectives import all_reduce
from distopt.errors import InvalidArgumentError
from distopt.variables.array_like import stop_gradient

__all__ = ["Accuracy", "Mean", "Sum"]


def __dir__() -> list[str]:
    return __all__


class Sum:
    """The sum of all values, of all replicas.

    A loss that was divided by the size of the *global* batch is this replica's share of the loss. The shares of a step
    add up to the loss of that step.

    Example:
        >>> loss = Sum()
        >>> loss.update(0.5)
        >>> loss.update(0.25)
        >>> loss.result()
        0.75
    """

    def __init__(self) -> None:
        self._distopt_belonging = Belonging()
        self.reset()

    def reset(self) -> None:
        """Begin again with nothing. Local."""
        self._total = 0.0

    def update(self, value: Any) -> None:
        """Add a value. Local.

        Args:
            value: one number; it may be traced.

        Raises:
            InvalidArgumentError: ``value`` is no single real number.
        """
        self._total += _number("Sum.update", value)

    @in_own_scope
    def result(self) -> float:
        """Return the sum over all replicas. Collective."""
        return float(all_reduce(np.float64(self._total)))


class Mean:
    """The mean over all items, of all replicas: the sum of their values, divided by the sum of their items.

    Example:
        >>> loss = Mean()
        >>> loss.update(3.0, items=2)  # the losses of two examples, added
        >>> loss.update(3.0)
        >>> loss.result()
        2.0
    """

    def __init__(self) -> None:
        self._distopt_belonging = Belonging()
        self.reset()

    def reset(self) -> None:
        """Begin again with nothing. Local."""
        self._total, self._items = 0.0, 0.0

    def update(self, value: Any, items: float = 1) -> None:
        """Add a value that was *summed* over ``items`` items. Local.

        Args:
            value: one number; it may be traced.
            items: the number of items (examples, tokens) in ``value``, 0 or more.

        Raises:
            InvalidArgumentError: ``value`` is no single real number, or ``items`` is no count.
        """
        number, count = _number("Mean.update", value), as_float(items)
        if not (count == 0 or SMALLEST <= count <= LARGEST):
            raise InvalidArgumentError(
                f"Mean.update(items={items!r}): expected the number of items that value was summed over, 0 or more"
            )
        self._total += number
        self._items += count

    @in_own_scope
    def result(self) -> float:
        """Return the mean over the items of all replicas; 0 where there are none, as in Keras. Collective."""
        total, items = all_reduce([self._total, self._items])
        return float(total / items) if items else 0.0


class Accuracy:
    """The share of examples, of all replicas, whose class was predicted.

    Example:
        >>> accuracy = Accuracy()
        >>> accuracy.update([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
        >>> round(accuracy.result(), 3)
        0.667
    """

    def __init__(self) -> None:
        self._mean = Mean()

    def reset(self) -> None:
        """Begin again with nothing. Local."""
        self._mean.reset()

    def update(self, y_true: Any, y_pred: Any, weights: Any = None) -> None:
        """Count this replica's examples. Local.

        Args:
            y_true: the true classes, whole numbers.
            y_pred: the predicted classes, in the shape of ``y_true``; or one score for each class on a further, last
                axis, of which the highest counts, the first one where several are equal. May be traced.
            weights: what each example counts, in the shape of ``y_true``; 1 by default.

        Raises:
            InvalidArgumentError: shapes that do not fit, scores where classes are expected, or a negative weight.
        """
        true = to_array(stop_gradient(y_true), "Accuracy.update: y_true")
        predicted = _classes(true, to_array(stop_gradient(y_pred), "Accuracy.update: y_pred"))
        counts = np.ones(true.shape) if weights is None else _weights(weights, true.shape)
        self._mean.update(np.sum(counts * (true == predicted)), items=float(np.sum(counts)))

    def result(self) -> float:
        """Return the share over the examples of all replicas; 0 where there are none, as in Keras. Collective."""
        return self._mean.result()


def _number(caller: str, value: Any) -> float:
    """Return one real number as a float; a scalar of any library of arrays is one, NaN and infinity too."""
    plain = stop_gradient(value)
    try:
        if isinstance(plain, (str, bytes)) or math.prod(getattr(plain, "shape", ())) != 1:
            raise TypeError
        return float(plain.item() if hasattr(plain, "item") else plain)
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgumentError(
            f"{caller}: expected one real number, received {type(value).__name__} of shape "
            f"{getattr(value, 'shape', '()')}: add up an array first, as in np.sum(losses), and pass items=len(losses) "
            "to a Mean"
        ) from None


def _classes(true: Array, predicted: Array) -> Array:
    if predicted.ndim == true.ndim + 1 and predicted.shape[:-1] == true.shape and predicted.shape[-1] > 1:
        return np.asarray(predicted.argmax(axis=-1))
    if predicted.shape != true.shape:
        raise InvalidArgumentError(
            f"Accuracy.update: y_true has shape {true.shape} and y_pred {predicted.shape}: give classes in the shape "
            "of y_true, or scores with one more axis, of two classes or more. Nothing is broadcast: reshape one of them"
        )
    for name, array in (("y_true", true), ("y_pred", predicted)):
        if not np.array_equal(array, np.trunc(array)):
            raise InvalidArgumentError(
                f"Accuracy.update: {name} has fractions, and the shape of classes {array.shape}: give classes, as in "
                "probability > 0.5, or scores.argmax(axis=-1)"
            )
    return predicted


def _weights(weights: Any, shape: tuple[int, ...]) -> Array:
    array = to_array(stop_gradient(weights), "Accuracy.update: weights")
    if array.shape != shape or not bool(np.all(np.isfinite(array) & (array >= 0))):
        raise InvalidArgumentError(
            f"Accuracy.update: weights of shape {array.shape} for examples of shape {shape}: expected one finite "
            "number for each, 0 or more"
        )
    return array.astype(np.float64)
