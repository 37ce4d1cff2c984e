"""What is done to a sum of gradients before the update: its division and its limits."""

from __future__ import annotations

from collections.abc import Sequence

from distopt.arrays import Array
from distopt.kernels import divide
from distopt.slabs.gradients import Gradients
from distopt.transformers import Buffer, Clipping, Factors, sparse_buffers


class Rescaling:
    """The division and the limits of one step, in two parts: before the norms are known, and after.

    Args:
        clipping: the limits.
        divisor: what dense sums are divided by; None leaves them.
        looks: whether somebody looks at every sum before anything is updated.
    """

    def __init__(self, clipping: Clipping, divisor: float | None, *, looks: bool) -> None:
        self._clipping, self._divisor, self._looks = clipping, divisor, looks
        self._factors: Factors | None = None

    @property
    def needs_every_sum(self) -> bool:
        """Whether nothing can be updated before everything is summed."""
        return self._clipping.needs_norms or self._looks

    @property
    def is_idle_before(self) -> bool:
        """Whether sums stay as they are until the norms are known."""
        return self._divisor is None and not self._limits_before

    @property
    def _limits_before(self) -> bool:
        """Whether values are limited before the norms are taken, which are those of what is left."""
        return self._clipping.clipvalue is not None and self._clipping.needs_norms

    def before(self, buffer: Buffer) -> None:
        """Do to a dense sum what comes before its norm."""
        flat, spans, _ = buffer
        if self._divisor is not None:
            divide(flat, spans, self._divisor)
        if self._limits_before:
            self._clipping.limit([buffer])

    def set_factors(self, squares: Array, entries: Sequence[int]) -> None:
        """Take the norms of all gradients that take part."""
        if self._clipping.needs_norms:
            self._factors = self._clipping.factors(squares, entries)

    @property
    def is_idle_after(self) -> bool:
        """Whether nothing is left to be done once the norms are known."""
        limits_values = self._clipping.clipvalue is not None and not self._limits_before
        return not limits_values and (self._factors is None or self._factors.is_one)

    def after(self, buffer: Buffer) -> None:
        """Do to a sum what is left once the norms are known."""
        if self._clipping.clipvalue is not None and not self._limits_before:
            self._clipping.limit([buffer])
        if self._factors is not None:
            self._factors(buffer)

    def row_buffers(self, gradients: Gradients) -> list[Buffer]:
        """Return the rows of sparse gradients, which every replica has whole, after what comes before the norm."""
        rows = sparse_buffers(gradients) if self._clipping.active or self._looks else []
        if self._limits_before:
            self._clipping.limit(rows)
        return rows
