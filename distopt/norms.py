"""Norms of gradients as sums of squares, and the factors that bring gradients within limits on norms.

Where squares leave the range of float64, they are those of gradients times a power of two; and where a norm, or its
product with a limit, leaves the range of the gradients' dtype, both are multiplied by one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from distopt.arrays import Array
from distopt.kernels import multiply, scale, square_sums, tree_sum
from distopt.kernels.spans import compute_dtype
from distopt.slabs.gradients import Gradients

Buffer: TypeAlias = "tuple[Array, Array, Array]"
"""A flat array, the (start, length) of each gradient in it, and the number of each gradient in the list."""

SHRINK = 2.0**-600
"""The factors of gradients whose squares overflow."""

SMALLEST = float(np.finfo(np.float32).tiny)
_LARGEST_EXPONENT = int(np.finfo(np.float32).maxexp) - 1
"""Of the smallest dtype that kernels compute in."""


@dataclass(frozen=True)
class Squares:
    """Sums of squares of gradients, each times a power of two.

    Args:
        values: the sums, (k,).
        scales: what each gradient was multiplied by before it was squared, (k,); None: by 1.
    """

    values: Array
    scales: Array | None

    @classmethod
    def of(cls, values: Array, shrunk: Callable[[], Array]) -> Squares:
        """Return sums in the range of float64.

        Args:
            values: the sums as they are, the same on all replicas.
            shrunk: returns those of gradients times ``SHRINK``.
        """
        is_finite = np.isfinite(values)
        if is_finite.all():
            return cls(values, None)
        return cls(np.where(is_finite, values, shrunk()), np.where(is_finite, 1.0, SHRINK))

    def total_norm(self, entries: Sequence[int]) -> tuple[float, float]:
        """Return the norm of some gradients together, times a power of two, and this power."""
        chosen = slice(None) if len(entries) == len(self.values) else list(entries)
        values = self.values[chosen]
        total = tree_sum(values) if len(values) else 0.0
        if self.scales is None and math.isfinite(total):
            return math.sqrt(total), 1.0
        shrink = SHRINK if self.scales is None else SHRINK / self.scales[chosen]
        return math.sqrt(tree_sum(values * shrink * shrink)), SHRINK


@dataclass(frozen=True)
class Quotients:
    """A quotient for each variable, which gradients are multiplied by.

    Args:
        numerator: the dividend.
        denominators: the divisors, each times a power of two, (k,).
        scales: these powers, (k,).
    """

    numerator: float
    denominators: Array
    scales: Array

    @functools.cached_property
    def are_in_range(self) -> bool:
        """Return whether no product leaves the range of any dtype: no element is larger than its norm."""
        exponent = math.frexp(self.numerator)[1]
        largest = int(np.frexp(self.denominators)[1].max(initial=0)) + max(exponent, 0)
        return largest <= _LARGEST_EXPONENT and bool((self.scales == 1).all())

    def __call__(self, buffer: Buffer) -> None:
        """Multiply the gradients of a buffer in place; before, by a power of two where a number would be too large."""
        flat, spans, entries = buffer
        if self.are_in_range:
            scale(flat, spans, self.numerator, self.denominators[entries])
            return
        denominators, scales = self.denominators[entries], self.scales[entries]
        largest = int(np.finfo(compute_dtype(flat.dtype)).maxexp) - 1
        # A numerator that is too large is smaller than its denominator: both shrink.
        excess = max(math.frexp(self.numerator)[1] - largest, 0)
        numerator, denominators = math.ldexp(self.numerator, -excess), np.ldexp(denominators, -excess)
        exponents = np.frexp(denominators)[1] + max(math.frexp(numerator)[1], 0)
        excesses = np.maximum(exponents - largest, 0)
        scales, denominators = np.ldexp(scales, -excesses), np.ldexp(denominators, -excesses)
        if (scales != 1).any():
            multiply(flat, spans, scales)
        scale(flat, spans, numerator, denominators)


@dataclass(frozen=True)
class Factors:
    """The factors of gradients: a quotient for each variable, and one number for all of them.

    Args:
        each: the quotients.
        all: the number.
        all_quotients: the same number, for a dtype in which it has no exact place.
    """

    each: Quotients | None
    all: float
    all_quotients: Quotients | None = None

    @property
    def is_one(self) -> bool:
        """Return whether the factors change nothing."""
        return self.each is None and self.all == 1.0

    def __call__(self, buffer: Buffer) -> None:
        """Multiply the gradients of a buffer in place."""
        flat, spans, _ = buffer
        if self.each is not None:
            self.each(buffer)
        if self.all_quotients is not None and self.all < np.finfo(compute_dtype(flat.dtype)).smallest_normal:
            self.all_quotients(buffer)
        elif self.all != 1.0:
            multiply(flat, spans, self.all)


def squares_of(buffers: Sequence[Buffer], gradients: Gradients, *, shrinks: bool = False) -> Array:
    """Return the sum of squares of every gradient; each repeated row of a sparse gradient counts on its own.

    Args:
        buffers: the gradients; not changed.
        gradients: what takes part.
        shrinks: whether the squares are those of gradients times ``SHRINK``.
    """
    squares = np.zeros(len(gradients.slab.variables))
    for flat, spans, entries in buffers:
        squares[entries] = square_sums(shrunk(flat) if shrinks else flat, spans)
    return squares


def shrunk(flat: Array) -> Array:
    """Return float64 times ``SHRINK``; squares of smaller dtypes are in range as they are, or of what is not finite."""
    return flat * SHRINK if flat.dtype == np.float64 else flat
