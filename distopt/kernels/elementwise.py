"""The operations on one flat array, with which gradients are clipped and averaged.

Each operation is written twice, as a rule is: in NumPy on whole arrays, and as the fused loop's statement on one
element ``x``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distopt.kernels.rule import Array, Scalar


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation that changes an array in place, with one value of each scalar per span.

    Args:
        name: an identifier; kernels are named after it.
        scalars: the names of the scalars.
        reference: ``reference(x, *scalars)``, in place.
        body: the statement of the fused loop on the element ``x``.
    """

    name: str
    scalars: tuple[str, ...]
    reference: Callable[..., None]
    body: str


def _scale(x: Array, numerator: Scalar, denominator: Scalar) -> None:
    x *= numerator
    x /= denominator


def _multiply(x: Array, factor: Scalar) -> None:
    x *= factor


def _divide(x: Array, divisor: Scalar) -> None:
    x /= divisor


def _clip(x: Array, limit: Scalar) -> None:
    # Not np.clip, which leaves open the sign of a zero when the limit is zero.
    x[...] = np.where(x > limit, limit, np.where(x < -limit, -limit, x))


def _decay(x: Array, rate: Scalar) -> None:
    x -= rate * x


SCALE = Operation("scale", ("numerator", "denominator"), _scale, "x = x * numerator / denominator")
MULTIPLY = Operation("multiply", ("factor",), _multiply, "x = x * factor")
DIVIDE = Operation("divide", ("divisor",), _divide, "x = x / divisor")
DECAY = Operation("decay", ("rate",), _decay, "x -= rate * x")
CLIP = Operation("clip", ("limit",), _clip, "x = limit if x > limit else (-limit if x < -limit else x)")
