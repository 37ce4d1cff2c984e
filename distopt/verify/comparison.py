"""Compares the gradients of the first step on one replica and on several, in numbers and as a table.

With the gradient g₁ of one process and g of R replicas, both after the aggregation, for each variable::

    difference = ‖g - g₁‖ / max(‖g‖, ‖g₁‖),    ratio = ⟨g, g₁⟩ / ⟨g₁, g₁⟩,    rest = ‖g - ratio g₁‖ / ‖g‖
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distopt.arrays import Array
from distopt.verify.first_step import Entry, Recording

TOLERANCE = 1e-4
"""The largest relative difference that can come from summing in another order, in float32."""

_TIMES = {"float16": 100, "bfloat16": 500}
"""The factor of the tolerance for gradients of 16 bits."""
_FLOOR = 1e-6
"""A fraction of the largest gradient: smaller gradients are rounding errors of terms that cancel each other."""
_PROPORTIONAL = 1e-3
_TERM = 1e-2


@dataclass(frozen=True)
class Row:
    """One variable's gradient on several replicas, compared with its gradient in one process."""

    name: str
    difference: float
    ratio: float
    """NaN where the gradient of one process is zero, or as good as zero."""
    rest: float
    is_equal: bool
    was_finite: bool
    """True where the gradient of one process is finite."""
    term: str
    """``"L2"`` or ``"L1"`` where g - g₁ is a multiple of the variable or of its signs, else empty."""

    @property
    def is_finite(self) -> bool:
        """Return whether both gradients are finite."""
        return math.isfinite(self.difference)

    @property
    def is_proportional(self) -> bool:
        """Return whether one gradient is a multiple of the other."""
        return self.rest < _PROPORTIONAL

    @property
    def is_strange(self) -> bool:
        """Return whether the gradients differ in no simple way."""
        return not (self.is_equal or self.is_proportional or self.term)


def compare(one: Recording, many: Recording, tolerance: float = TOLERANCE) -> list[Row]:
    """Compare the gradients of each variable that has one in both recordings.

    Args:
        one: the first step of one process.
        many: the first step of several replicas, over the same variables.
        tolerance: relative difference up to which gradients count as equal, in 32 and 64 bits; in 16 bits it is larger.
    """
    pairs = [
        (a, *_aligned(a, b))
        for a, b in zip(one.entries, many.entries, strict=True)
        if a.gradient is not None and b.gradient is not None
    ]
    floor = _FLOOR * max((_rms(g) for _, *both in pairs for g in both if np.isfinite(g).all()), default=0.0)
    return [_row(entry, before, after, tolerance, floor) for entry, before, after in pairs]


def table(rows: Sequence[Row], lines: int) -> str:
    """Return a table of at most ``lines`` variables, one a line, with those that differ at the top."""
    shown = sorted(rows, key=lambda row: row.is_equal)[:lines]
    head = "variable"
    width = max(len(name) for name in (head, *(row.name for row in shown)))
    text = [f"{head:<{width}}  difference      ratio"]
    for row in shown:
        ratio = "-" if math.isnan(row.ratio) else f"{row.ratio:.4g}"
        text.append(f"{row.name:<{width}}  {row.difference:>10.1e}  {ratio:>9}{'' if row.is_equal else '  differs'}")
    if len(rows) > lines:
        text.append(f"and {len(rows) - lines} more")
    return "\n".join(text)


def _row(entry: Entry, before: Array, after: Array, tolerance: float, floor: float) -> Row:
    apart = after - before
    largest, distance = max(_norm(before), _norm(after)), _norm(apart)
    negligible = floor * math.sqrt(before.size)
    is_known = _norm(before) > negligible and bool(np.isfinite(after).all())
    ratio = float(np.vdot(after, before) / np.vdot(before, before)) if is_known else math.nan
    rest = _norm(after - ratio * before) / _norm(after) if is_known and _norm(after) > negligible else math.nan
    is_equal = distance <= tolerance * _TIMES.get(entry.dtype, 1) * largest + negligible
    has_term = not is_equal and entry.gradient is not None and apart.shape == entry.parameter.shape
    return Row(
        entry.name,
        distance / largest if largest else 0.0,
        ratio,
        rest,
        is_equal,
        bool(np.isfinite(before).all()),
        _term(apart, entry.parameter) if has_term else "",
    )


def _term(apart: Array, parameter: Array) -> str:
    """Return "L2" or "L1" if the difference of two gradients is a multiple of that term's gradient, else ""."""
    if parameter.size > 2:  # one or two numbers are a multiple of anything
        for name, gradient in (("L2", parameter), ("L1", np.sign(parameter))):
            square = np.vdot(gradient, gradient)
            if square and _norm(apart - np.vdot(apart, gradient) / square * gradient) < _TERM * _norm(apart):
                return name
    return ""


def _aligned(one: Entry, other: Entry) -> tuple[Array, Array]:
    """Return both gradients in float64: sparse ones over the union of their rows, both dense where one is dense."""
    assert one.gradient is not None
    assert other.gradient is not None
    if one.rows is None and other.rows is None:
        return one.gradient.astype(np.float64), other.gradient.astype(np.float64)
    everything = np.arange(len(one.parameter))
    sets = [everything if entry.rows is None else entry.rows for entry in (one, other)]
    rows = np.union1d(*sets)
    both = np.zeros((2, len(rows), *one.parameter.shape[1:]))
    for k, (mine, gradient) in enumerate(zip(sets, (one.gradient, other.gradient), strict=True)):
        both[k, np.searchsorted(rows, mine)] = gradient
    return both[0], both[1]


def _norm(array: Array) -> float:
    return float(np.sqrt(np.vdot(array, array)))


def _rms(array: Array) -> float:
    return _norm(array) / math.sqrt(max(array.size, 1))
