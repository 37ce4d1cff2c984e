"""Clipping of the aggregated gradients: by value, by norm, by global norm, in this order.

Norms are float64 sums of squares over fixed blocks, so they do not depend on how the work is cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from distopt.arguments import as_float
from distopt.arrays import Array
from distopt.errors import InvalidArgumentError
from distopt.kernels import clip, multiply, scale, square_sums, tree_sum
from distopt.slabs.gradients import Gradients

Buffer: TypeAlias = "tuple[Array, Array, Array]"
"""A flat array, the (start, length) of each gradient in it, and the number of each gradient in the list."""


@dataclass
class Clipping:
    """Limits on gradients; None switches one off, and inf never clips.

    * ``clipvalue`` c: ``g ← min(max(g, -c), c)``
    * ``clipnorm`` c: ``g ← g c / max(‖g‖, c)``, each variable by itself
    * ``global_clipnorm`` c: ``g ← g c / max(N, c)``, N the norm of all gradients together; where N is not finite,
      every gradient becomes NaN

    Args:
        clipvalue: limit of each element.
        clipnorm: limit of each variable's norm.
        global_clipnorm: limit of the norm of all gradients together.

    Source: Keras, ``clip_by_value``, ``clip_by_norm``, ``clip_by_global_norm``. A limit of 0 makes gradients zero
    (upstream, 0 times a zero gradient is NaN).
    """

    clipvalue: float | None = None
    clipnorm: float | None = None
    global_clipnorm: float | None = None

    @property
    def active(self) -> bool:
        """Return whether any limit is set."""
        return (self.clipvalue, self.clipnorm, self.global_clipnorm) != (None, None, None)

    @property
    def needs_norms(self) -> bool:
        """Return whether a limit is on norms; norms need the sums of all gradients."""
        return (self.clipnorm, self.global_clipnorm) != (None, None)

    def needs_stages(self, *, inspects: bool) -> bool:
        """Return whether a limit, or the search for values that it hides, must wait for an earlier limit on all."""
        return (self.clipnorm is not None and self.global_clipnorm is not None) or (
            inspects and self.needs_norms and self.clipvalue is not None
        )

    def limit(self, buffers: Sequence[Buffer]) -> None:
        """Clip elements by value."""
        if self.clipvalue is not None:
            for flat, spans, _ in buffers:
                clip(flat, spans, self.clipvalue)

    def factors(self, squares: Array, entries: Sequence[int]) -> Factors:
        """Return the factors to multiply gradients by.

        Args:
            squares: the sum of squares of every variable's gradient, (k,).
            entries: the numbers of the gradients that take part, in order.
        """
        each = None
        if self.clipnorm is not None and self.clipnorm < math.inf:  # inf / inf is NaN
            # max(norm, 1) where the limit is 0: the quotient is 0 then, also for a norm of 0.
            each = self.clipnorm, np.maximum(np.sqrt(squares), self.clipnorm or 1.0)
        if self.global_clipnorm is None:
            return Factors(each, 1.0)
        total = tree_sum(squares[list(entries)]) if len(entries) else 0.0
        return Factors(each, self._global_factor(math.sqrt(total)))

    def _global_factor(self, norm: float) -> float:
        limit = self.global_clipnorm or 0.0
        if not math.isfinite(norm):
            return math.nan
        if limit == math.inf:
            return 1.0
        return limit / max(norm, limit) if limit > 0 else 0.0


@dataclass(frozen=True)
class Factors:
    """The factors of gradients: a quotient for each variable, and one number for all of them."""

    each: tuple[float, Array] | None
    all: float

    @property
    def is_one(self) -> bool:
        """Return whether the factors change nothing."""
        return self.each is None and self.all == 1.0

    def __call__(self, buffer: Buffer) -> None:
        """Multiply the gradients of a buffer in place."""
        flat, spans, entries = buffer
        if self.each is not None:
            numerator, denominators = self.each
            scale(flat, spans, numerator, denominators[entries])
        if self.all != 1.0:
            multiply(flat, spans, self.all)


def squares_of(buffers: Sequence[Buffer], gradients: Gradients) -> Array:
    """Return the sum of squares of every gradient; each repeated row of a sparse gradient counts on its own."""
    squares = np.zeros(len(gradients.slab.variables))
    for flat, spans, entries in buffers:
        squares[entries] = square_sums(flat, spans)
    return squares


def checked_limit(name: str, value: Any) -> float | None:
    """Return a clip argument as a float.

    Raises:
        InvalidArgumentError: the value is negative, NaN or no number.
    """
    if value is None:
        return None
    limit = as_float(value)
    if math.isnan(limit):
        raise InvalidArgumentError(f"Expected {name} >= 0, received: {value!r}, which is no number")
    if limit < 0:
        raise InvalidArgumentError(f"Expected {name} >= 0, received: {value!r}. None switches clipping off")
    return limit


def dense_buffers(gradients: Gradients) -> list[Buffer]:
    """Return the flat buffers of the slab, with the spans of the dense gradients in them."""
    slab, dense = gradients.slab, gradients.dense
    buffers = []
    for dtype, flat in slab.flats.items():
        spans = slab.spans(dtype, dense)
        if len(spans):
            buffers.append((flat, spans, np.array([k for k in dense if slab.dtypes[k] == dtype])))
    return buffers


def sparse_buffers(gradients: Gradients) -> list[Buffer]:
    """Return writable copies of the values of sparse gradients, and put them in place of the originals."""
    buffers = []
    for k, slices in gradients.sparse.items():
        values = np.array(slices.values, order="C")
        gradients.sparse[k] = slices.with_values(values)
        buffers.append((values.reshape(-1), np.array([[0, values.size]], np.int64), np.array([k])))
    return buffers
