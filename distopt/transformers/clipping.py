"""Clipping of the aggregated gradients: by value, by norm, by global norm, in this order.

Norms are float64 sums of squares over fixed blocks, so they do not depend on how the work is cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from distopt.arrays import Array
from distopt.errors import InvalidArgumentError
from distopt.kernels import clip, multiply, scale, square_sums, tree_sum
from distopt.slab import Gradients


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
        global_clipnorm: limit of the norm of all.

    Source: Keras, ``clip_by_value``, ``clip_by_norm``, ``clip_by_global_norm``. A limit of 0 makes gradients zero
    (upstream, 0 times a zero gradient is NaN).
    """

    clipvalue: float | None = None
    clipnorm: float | None = None
    global_clipnorm: float | None = None

    @property
    def active(self) -> bool:
        """Whether any limit is set."""
        return (self.clipvalue, self.clipnorm, self.global_clipnorm) != (None, None, None)

    def apply(self, gradients: Gradients) -> None:
        """Clip the gradients of one step in place.

        Args:
            gradients: the aggregated gradients; the slab and the sparse values are overwritten.
        """
        buffers = _buffers(gradients) if self.active else []
        if self.clipvalue is not None:
            for flat, spans in buffers:
                clip(flat, spans, self.clipvalue)
        if self.clipnorm is not None and self.clipnorm < math.inf:  # inf / inf is NaN
            for flat, spans in buffers:
                norms = np.sqrt(square_sums(flat, spans))
                limit = np.full(len(norms), self.clipnorm)
                # max(norm, 1) where the limit is 0: the quotient is 0 then, also for a norm of 0.
                scale(flat, spans, limit, np.maximum(norms, self.clipnorm or 1.0))
        if self.global_clipnorm is not None:
            factor = self._global_factor(global_norm(gradients))
            if factor != 1.0:
                for flat, spans in buffers:
                    multiply(flat, spans, factor)

    def _global_factor(self, norm: float) -> float:
        limit = self.global_clipnorm or 0.0
        if not math.isfinite(norm):
            return math.nan
        if limit == math.inf:
            return 1.0
        return limit / max(norm, limit) if limit > 0 else 0.0


def global_norm(gradients: Gradients) -> float:
    """Return the norm of all gradients together; repeated rows of sparse ones count each by itself."""
    slab, squares = gradients.slab, np.zeros(len(gradients.slab.variables))
    dense = gradients.dense
    for dtype, flat in slab.flats.items():
        members = [k for k in dense if slab.dtypes[k] == dtype]
        squares[members] = square_sums(flat, slab.spans(dtype, dense))
    for k, slices in gradients.sparse.items():
        values = slices.values.reshape(-1)
        squares[k] = square_sums(values, _whole(values))[0]
    return math.sqrt(tree_sum(squares[list(gradients.entries)])) if len(gradients.entries) else 0.0


def checked_limit(name: str, value: Any) -> float | None:
    """Return a clip argument as a float.

    Raises:
        InvalidArgumentError: negative, NaN or no number.
    """
    if value is None:
        return None
    try:
        limit = None if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError):
        limit = None
    if limit is None:
        raise InvalidArgumentError(f"Expected {name} >= 0, received: {value!r}, which is no number")
    if not limit >= 0:
        raise InvalidArgumentError(f"Expected {name} >= 0, received: {value!r}. None switches clipping off")
    return limit


def _buffers(gradients: Gradients) -> list[tuple[Array, Array]]:
    """Every buffer that holds gradients, with its spans; sparse values become writable copies."""
    slab, dense = gradients.slab, gradients.dense
    buffers = [(flat, slab.spans(dtype, dense)) for dtype, flat in slab.flats.items()]
    for k, slices in gradients.sparse.items():
        values = np.array(slices.values, order="C")
        gradients.sparse[k] = slices._with_values(values)
        buffers.append((values.reshape(-1), _whole(values)))
    return [(flat, spans) for flat, spans in buffers if len(spans)]


def _whole(values: Array) -> Array:
    return np.array([[0, values.size]], np.int64)
