"""Clipping of the aggregated gradients: by value, by norm, by global norm, in this order.

Norms are float64 sums of squares over fixed blocks, so they do not depend on how the work is cut. Where numbers leave
the range of their dtypes, ``norms`` scales them; all other bits are those of the plain formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distopt.arguments import as_float
from distopt.arrays import Array, is_floating, to_array
from distopt.errors import InvalidArgumentError
from distopt.kernels import clip, square_sums
from distopt.norms import SMALLEST, Buffer, Factors, Quotients, Squares, shrunk
from distopt.slabs.gradients import Gradients
from distopt.variables.array_like import stop_gradient
from distopt.variables.indexed_slices import IndexedSlices

__all__ = ["Clipping", "global_norm"]


def __dir__() -> list[str]:
    return __all__


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
        if factor >= SMALLEST:
            return factor, None
        return factor, Quotients(limit, np.full(count, denominator), np.full(count, scale))


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


def only_limit(owner: str, **limits: Any) -> Clipping:
    """Return the clipping of an optimizer that takes one limit at most.

    Args:
        owner: the optimizer's class, for messages.
        **limits: all limits by name; None where one is not set.

    Raises:
        InvalidArgumentError: several limits; one that is negative, NaN or no number.
    """
    if sum(limit is not None for limit in limits.values()) > 1:
        raise InvalidArgumentError(
            f"{owner}: Only one of `clipnorm`, `clipvalue` and `global_clipnorm` can be set, received "
            + ", ".join(f"{name}={value!r}" for name, value in limits.items())
        )
    return Clipping(**{name: checked_limit(name, value) for name, value in limits.items()})


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
