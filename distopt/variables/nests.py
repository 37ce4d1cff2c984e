"""The structures in which a tape gets targets and sources, and in which it returns gradients."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from autograd.tracer import isbox

from distopt.arrays import to_array
from distopt.errors import InvalidArgumentError
from distopt.variables.array_like import stop_gradient
from distopt.variables.record import convert
from distopt.variables.tracing import is_followed


def flatten(structure: Any) -> Iterator[Any]:
    """Yield what nested lists, tuples and dicts hold."""
    if isinstance(structure, (list, tuple)):
        for item in structure:
            yield from flatten(item)
    elif isinstance(structure, dict):
        yield from flatten(list(structure.values()))
    else:
        yield structure


def like(structure: Any, items: Iterator[Any]) -> Any:
    """Return the items in a structure that ``flatten`` has flattened."""
    if isinstance(structure, (list, tuple)):
        return type(structure)([like(item, items) for item in structure])
    if isinstance(structure, dict):
        return {key: like(item, items) for key, item in structure.items()}
    return next(items)


def matched(target: Any, given: Any) -> Iterable[tuple[Any, Any]]:
    """Yield each target with its output gradient, or with None."""
    if not isinstance(target, (list, tuple)):
        yield target, given
        return
    each = [None] * len(target) if given is None else given
    if not isinstance(each, (list, tuple)) or len(each) != len(target):
        raise InvalidArgumentError(
            f"tape.gradient received output_gradients that do not match the list of {len(target)} targets. "
            "Give a list with one for each."
        )
    for pair in zip(target, each, strict=True):
        yield from matched(*pair)


def seed(box: Any, given: Any) -> Any:
    """Return the gradient that enters at a target: the one that was given, or ones."""
    if given is None:
        return np.ones(box.shape, box.dtype)
    entering = given if isbox(given) and is_followed(given) else to_array(stop_gradient(given), "output_gradients")
    if entering.shape != box.shape:
        raise InvalidArgumentError(
            f"output_gradients (grad_loss) of shape {entering.shape} for a target of shape {box.shape}: each "
            "element of the target has one. Give the target's shape."
        )
    return convert(entering, box.dtype)


def shape_of_one(value: Any, method: str) -> tuple[int, ...]:
    """Return the shape of a target or source that must be one value.

    Raises:
        InvalidArgumentError: it is a list, or has no shape.
    """
    if isinstance(value, (list, tuple, dict)) or not hasattr(value, "shape"):
        raise InvalidArgumentError(
            f"tape.{method} received {type(value).__name__} where one traced value or Variable belongs. Call it once "
            "for each, with a persistent tape."
        )
    return tuple(value.shape)


def stacked(column: list[Any], axis: int, shape: tuple[int, ...]) -> Any:
    """Return the gradients of one source in one array, or None if it has none."""
    if column and column[0] is not None:
        return np.reshape(np.stack(column, axis), shape)
    return None


class UnconnectedGradients(enum.Enum):
    """The answer of a tape for a source on which the target does not depend.

    Source: tf.UnconnectedGradients.
    """

    NONE = "none"
    ZERO = "zero"

    @classmethod
    def of(cls, value: Any) -> UnconnectedGradients:
        """Return the member that a user has named.

        Raises:
            InvalidArgumentError: there is none of that name.
        """
        try:
            return cls(value)
        except ValueError:
            raise InvalidArgumentError(
                f'unconnected_gradients is {value!r}: give "none" (the gradient is None) or "zero" (it is zeros).'
            ) from None

    def stand_in(self, gradient: Any, source: Any, outer: tuple[int, ...] = ()) -> Any:
        """Return a gradient; where it is None, what the user wants in its place, of shape ``outer + source.shape``."""
        if gradient is None and self is UnconnectedGradients.ZERO:
            return np.zeros((*outer, *source.shape), source.dtype)
        return gradient
