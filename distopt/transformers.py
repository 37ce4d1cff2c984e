"""Clipping of the aggregated gradients: by value, by norm, by global norm, in this order.

Norms are float64 sums of squares over fixed blocks, so they do not depend on how the work is cut. Where squares leave
the range of float64, they are those of gradients times a power of two; and where a norm, or its product with a limit,
leaves the range of the gradients' dtype, both are multiplied by one. All other bits are those of the plain formula.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from distopt.arguments import as_float
from distopt.arrays import Array, is_floating, to_array
from distopt.errors import InvalidArgumentError
from distopt.kernels import clip, multiply, scale, square_sums, tree_sum
from distopt.kernels.spans import compute_dtype
from distopt.slabs.gradients import Gradients
from distopt.variables.array_like import stop_gradient
from distopt.variables.indexed_slices import IndexedSlices

Buffer: TypeAlias = "tuple[Array, Array, Array]"
"""A flat array, the (start, length) of each gradient in it, and the number of each gradient in the list."""

SHRINK = 2.0**-600
"""The factors of gradients whose squares overflow."""

_SMALLEST = float(np.finfo(np.float32).tiny)
_LARGEST_EXPONENT = int(np.finfo(np.float32).maxexp) - 1
"""Of the smallest dtype that kernels compute in."""


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

    def apply(self, buffers: Sequence[Buffer], entries: Sequence[int], measure: Callable[[bool], Array]) -> None:
        """Apply all limits, in their order.

        Args:
            buffers: the gradients; changed.
            entries: the numbers of the gradients that take part, in order.
            measure: returns the sum of squares of every gradient in the buffers; True: of gradients times ``SHRINK``.
        """
        self.limit(buffers)
        # In this order: the global norm is that of what the norms of single variables have left.
        for stage in (Clipping(clipnorm=self.clipnorm), Clipping(global_clipnorm=self.global_clipnorm)):
            if stage.needs_norms:
                squares = Squares.of(measure(False), lambda: measure(True))
                factors = stage.factors(squares, entries)
                for buffer in buffers:
                    factors(buffer)

    def factors(self, squares: Squares, entries: Sequence[int]) -> Factors:
        """Return the factors to multiply gradients by.

        Args:
            squares: the sum of squares of every variable's gradient.
            entries: the numbers of the gradients that take part, in order.
        """
        each = None
        if self.clipnorm is not None and self.clipnorm < math.inf:  # inf / inf is NaN
            scales = np.ones(len(squares.values)) if squares.scales is None else squares.scales
            # max(norm, 1) where the limit is 0: the quotient is 0 then, also for a norm of 0.
            limits = (self.clipnorm or 1.0) * scales
            each = Quotients(self.clipnorm, np.maximum(np.sqrt(squares.values), limits), scales)
        if self.global_clipnorm is None:
            return Factors(each, 1.0)
        norm, scale = squares.total_norm(entries)
        return Factors(each, *self._global_factor(norm, scale, len(squares.values)))

    def _global_factor(self, norm: float, scale: float, count: int) -> tuple[float, Quotients | None]:
        """Return the factor of all gradients, and as quotients for where it is too small a number."""
        limit = self.global_clipnorm or 0.0
        if not math.isfinite(norm):
            return math.nan, None
        if limit == math.inf:
            return 1.0, None
        if limit == 0:
            return 0.0, None
        denominator = max(norm, limit * scale)
        factor = limit / denominator * scale
        if factor >= _SMALLEST:
            return factor, None
        return factor, Quotients(limit, np.full(count, denominator), np.full(count, scale))


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


def limited(gradients: Sequence[Any], clipping: Clipping) -> list[Any]:
    """Return limited copies of gradients: arrays or IndexedSlices; None stays None.

    Example:
        >>> limited([np.array([3.0, 4.0]), None], Clipping(clipnorm=1.0))
        [array([0.6, 0.8]), None]
    """
    values = [np.array(g.values if isinstance(g, IndexedSlices) else g, order="C") for g in gradients if g is not None]
    present = [k for k, gradient in enumerate(gradients) if gradient is not None]
    spans = [np.array([[0, array.size]], np.int64) for array in values]
    buffers = [(v.reshape(-1), span, np.array([k])) for k, v, span in zip(present, values, spans, strict=True)]

    def measure(shrinks: bool) -> Array:
        squares = np.zeros(len(gradients))
        for flat, span, entries in buffers:
            squares[entries] = square_sums(shrunk(flat) if shrinks else flat, span)
        return squares

    clipping.apply(buffers, present, measure)
    result = list(gradients)
    for k, array in zip(present, values, strict=True):
        result[k] = gradients[k].with_values(array) if isinstance(gradients[k], IndexedSlices) else array
    return result


def global_norm(gradients: Iterable[Any]) -> float:
    """Return the norm of gradients together, as ``global_clipnorm`` sees it: ``√(Σ g²)``.

    Args:
        gradients: arrays of any shapes, IndexedSlices (each row counts on its own), None (counts as nothing), or
            (gradient, variable) pairs, as a transformer gets them; not changed.

    Returns:
        The norm, with the same bits on every replica that has the same gradients; inf where float64 can't hold it.

    Example:
        >>> global_norm([np.array([3.0]), np.array([[4.0]])])
        5.0

    Source: tf.linalg.global_norm.
    """
    each = (pair[0] if isinstance(pair, tuple) else pair for pair in gradients)
    flats = [_flat(gradient) for gradient in each if gradient is not None]

    def squares(*, shrinks: bool = False) -> Array:
        parts = ((shrunk(flat) if shrinks else flat, np.array([[0, flat.size]], np.int64)) for flat in flats)
        return np.array([square_sums(flat, spans)[0] for flat, spans in parts])

    norm, scale = Squares.of(squares(), lambda: squares(shrinks=True)).total_norm(list(range(len(flats))))
    return norm / scale


def _flat(gradient: Any) -> Array:
    values = gradient.values if isinstance(gradient, IndexedSlices) else gradient
    array = to_array(stop_gradient(values), "global_norm: a gradient")
    return np.ascontiguousarray(array if is_floating(array.dtype) else array.astype(np.float64)).reshape(-1)


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
