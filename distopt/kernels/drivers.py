"""The kernels as the rest of distopt calls them: flat arrays, cut by spans.

``kernel_kind()`` tells whether compiled code or NumPy runs; the bits are the same. All kernels release the GIL
while they work, and none starts a thread. 16-bit arrays are computed in float32 and rounded once when they
are stored.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import numpy.typing as npt

from distopt.errors import InvalidArgumentError
from distopt.kernels.elementwise import CLIP, DECAY, DIVIDE, MULTIPLY, SCALE
from distopt.kernels.rule import Array, Rule
from distopt.kernels.spans import Spans
from distopt.kernels.target import kernel_kind


@functools.cache
def _kernels() -> ModuleType:
    """Import the kernels at their first use: Numba takes a second to load."""
    return importlib.import_module(f"distopt.kernels.{kernel_kind()}")


def update(
    rule: Rule,
    parameter: Array,
    gradient: Array,
    slots: Sequence[Array],
    scalars: Sequence[float],
    spans: Spans,
) -> None:
    """Apply an update rule to spans of a parameter and its slots, in one kernel call.

    Args:
        rule: the update of one element in a step.
        parameter: (n,) contiguous; changed in place.
        gradient: (m,) contiguous, the parameter's dtype; not changed.
        slots: one array like ``parameter`` for each of ``rule.slots``; changed in place.
        scalars: one number for each of ``rule.scalars``, rounded once to the dtype of the computation.
        spans: (k, 3) int64: start in the parameter and the slots, start in the gradient, length; not
            overlapping.

    Raises:
        InvalidArgumentError: a span reaches outside of an array (nothing has been changed), the slots or
            scalars do not fit the rule, or there is no kernel for the dtype.

    Example:
        >>> from distopt.optimizers.sgd import DESCENT
        >>> p, g = np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0])
        >>> update(DESCENT, p, g, [], [0.1], np.array([[1, 0, 2]]))
        >>> p
        array([1., 1., 1.])
    """
    if len(slots) != len(rule.slots) or len(scalars) != len(rule.scalars):
        raise InvalidArgumentError(
            f"rule {rule.name!r} takes slots {rule.slots} and scalars {rule.scalars}; "
            f"got {len(slots)} slots and {len(scalars)} scalars"
        )
    _kernels().update(rule, parameter, gradient, slots, scalars, spans)


def add_tree(rows: Sequence[Array], out: Array) -> None:
    """Add rows in the fixed tree of summation: neighbours in pairs, an odd last one carried up.

    Node k of level l is the sum of rows [k 2^l, (k+1) 2^l): three rows give (a + b) + c, six give
    ((a + b) + (c + d)) + (e + f). 16-bit results are summed in float32 and rounded once.

    Args:
        rows: R >= 1 arrays (n,), contiguous, not changed; in the dtype of ``out``, or one of them of 16 bits
            and the other float32.
        out: (n,) contiguous; overwritten. It may be one of the rows.

    Raises:
        InvalidArgumentError: no rows, or a row's length is not that of ``out``.

    Example:
        >>> out = np.empty(2)
        >>> add_tree([np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([5.0, 6.0])], out)
        >>> out
        array([ 9., 12.])
    """
    sizes = [row.size for row in rows]
    if set(sizes) != {out.size}:
        raise InvalidArgumentError(
            f"add_tree adds one or more rows of {out.size} elements, like out; got rows of {sizes}"
        )
    _kernels().add_tree(rows, out)


def square_sums(flat: Array, spans: Spans) -> npt.NDArray[np.float64]:
    """Return the sum of squares of each span, in float64 and in an order that no cut of the work changes.

    A span is cut into blocks of 4,096 elements from its start. In a block element i belongs to lane i mod
    128; a lane adds in order, then the upper half of the lanes is added to the lower until one is left.
    Block sums are added in the tree of ``tree_sum``. Values that are not finite propagate.

    Args:
        flat: (n,) contiguous; not changed.
        spans: (k, 2) int64: start, length.

    Returns:
        (k,) float64.

    Raises:
        InvalidArgumentError: a span reaches outside of the array.

    Example:
        >>> square_sums(np.array([3.0, 4.0, 2.0]), np.array([[0, 2], [2, 1]]))
        array([25.,  4.])
    """
    sums: npt.NDArray[np.float64] = _kernels().square_sums(flat, spans)
    return sums


def tree_sum(values: npt.NDArray[np.float64]) -> float:
    """Return the sum of ``values`` (k,) in the fixed tree: neighbours in pairs, an odd last one carried up.

    Example:
        >>> tree_sum(np.array([1.0, 2.0, 3.0]))
        6.0
    """
    return float(_kernels().tree_sum(values))


def scale(flat: Array, spans: Spans, numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> None:
    """Replace each element x of span k by x * numerator[k] / denominator[k], in this order.

    Args:
        flat: (n,) contiguous; changed in place.
        spans: (k, 2) int64: start, length.
        numerators: (k,) or one number, rounded once to the dtype of the computation.
        denominators: (k,) or one number, likewise.

    Raises:
        InvalidArgumentError: a span reaches outside of the array (nothing has been changed).

    Example:
        >>> x = np.array([3.0, 4.0, 2.0])
        >>> scale(x, np.array([[0, 2]]), [1.0], [5.0])
        >>> x
        array([0.6, 0.8, 2. ])
    """
    _kernels().apply(SCALE, flat, spans, _table(len(spans), numerators, denominators))


def multiply(flat: Array, spans: Spans, factor: npt.ArrayLike) -> None:
    """Multiply the spans of ``flat`` in place by a number, or span k by factor[k]; otherwise as ``scale``.

    Example:
        >>> x = np.array([1.0, 2.0])
        >>> multiply(x, np.array([[0, 1]]), 3)
        >>> x
        array([3., 2.])
    """
    _kernels().apply(MULTIPLY, flat, spans, _table(len(spans), factor))


def divide(flat: Array, spans: Spans, divisor: npt.ArrayLike) -> None:
    """Divide the spans of ``flat`` in place by a number, or span k by divisor[k]; otherwise as ``scale``.

    Example:
        >>> x = np.array([1.0, 2.0])
        >>> divide(x, np.array([[0, 2]]), 2)
        >>> x
        array([0.5, 1. ])
    """
    _kernels().apply(DIVIDE, flat, spans, _table(len(spans), divisor))


def decay(flat: Array, spans: Spans, rate: npt.ArrayLike) -> None:
    """Take the fraction ``rate`` of each element of the spans from it, in place; otherwise as ``scale``.

    Example:
        >>> x = np.array([1.0, 2.0])
        >>> decay(x, np.array([[0, 2]]), 0.25)
        >>> x
        array([0.75, 1.5 ])
    """
    _kernels().apply(DECAY, flat, spans, _table(len(spans), rate))


def clip(flat: Array, spans: Spans, limit: npt.ArrayLike) -> None:
    """Limit the elements of the spans in place to [-limit, limit]; NaN stays NaN; otherwise as ``scale``.

    Args:
        flat: (n,) contiguous; changed in place.
        spans: (k, 2) int64: start, length.
        limit: at least 0: one number, or (k,).

    Example:
        >>> x = np.array([-3.0, 0.5, np.nan])
        >>> clip(x, np.array([[0, 3]]), 1.0)
        >>> x
        array([-1. ,  0.5,  nan])
    """
    _kernels().apply(CLIP, flat, spans, _table(len(spans), limit))


def _table(count: int, *columns: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return one row of scalars per span."""
    table = np.empty((count, len(columns)))
    for c, column in enumerate(columns):
        table[:, c] = column
    return table
