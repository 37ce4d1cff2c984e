"""The division and the limits of a sum of gradients before the update, here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from distopt.arrays import Array, wide_dtype
from distopt.kernels import divide
from distopt.norms import Buffer, Factors, Squares, squares_of
from distopt.slabs.gradients import Gradients
from distopt.transformers import Clipping, dense_buffers, sparse_buffers


class Rescaling:
    """The division and the limits of one step, or the limits of a part of its gradients.

    Sums that lie whole in the slab are measured, then limited; those of blocks are worked on before the norms are
    known, and after. Rows are divided when they are gathered, and limited with the rest.

    Args:
        clipping: the limits.
        divisor: what sums are divided by; None leaves them.
        looks: whether somebody looks at every sum before anything is updated.
        sums_wide: whether sums of 16 bits are formed in float32, for ``narrow`` to divide and round.
    """

    def __init__(
        self, clipping: Clipping, divisor: float | None = None, *, looks: bool = False, sums_wide: bool = False
    ) -> None:
        self._clipping, self._divisor, self._looks, self.sums_wide = clipping, divisor, looks, sums_wide
        self._factors: Factors | None = None
        self.needs_every_sum = clipping.needs_norms or looks
        """True where nothing can be updated before everything is summed."""
        self._limits_before = clipping.clipvalue is not None and clipping.needs_norms
        """True where values are limited before the norms are taken, which are those of what is left."""
        self.is_idle_before = divisor is None and not self._limits_before
        """True where sums stay as they are until the norms are known."""

    def narrow(self, wide: Array, out: Array) -> None:
        """Divide a sum of 16 bits in the float32 in which it was formed (overwritten), and round it once."""
        if self._divisor is not None:
            divide(wide, np.array([[0, wide.size]]), self._divisor)
        with np.errstate(over="ignore"):  # as in the kernels
            np.copyto(out, wide, casting="same_kind")

    def narrow_whole(self, gradients: Gradients) -> None:
        """Do so with sums that lie whole, and wide, in the slab."""
        slab = gradients.slab
        for k in gradients.dense:
            if slab.dtypes[k] in slab.wide:
                self.narrow(slab.wide_views[k].reshape(-1), slab.views[k].reshape(-1))
        gradients.note_narrow()

    def divide_rows(self, gradients: Gradients, *, keep_wide: bool) -> None:
        """Divide the rows of sparse gradients.

        Args:
            gradients: the sparse ones are replaced.
            keep_wide: whether rows of 16 bits that are divided or limited are float32 from now on:
                equal ones will be added before they are rounded.
        """
        if self._divisor is None and not (keep_wide and self._clipping.active):
            return
        with np.errstate(over="ignore", invalid="ignore"):  # as in the kernels
            for k, rows in gradients.sparse.items():
                wide = rows.astype(wide_dtype(rows.dtype)) if keep_wide else rows
                gradients.sparse[k] = wide if self._divisor is None else wide / self._divisor

    def measure(self, gradients: Gradients) -> Array | None:
        """Divide dense sums that lie whole in the slab.

        Returns:
            The sum of squares of every variable's gradient, where somebody looks.
        """
        if self._divisor is None and not self._looks:
            return None
        buffers = dense_buffers(gradients)
        for buffer in buffers:
            self._divide(buffer)
        return squares_of(buffers + sparse_buffers(gradients), gradients) if self._looks else None

    def limit(self, gradients: Gradients) -> None:
        """Limit sums that lie whole in the slab, and rows, in place."""
        clipping = self._clipping
        if not clipping.active:
            return
        buffers = dense_buffers(gradients) + sparse_buffers(gradients)
        clipping.apply(buffers, gradients.entries, lambda shrinks: squares_of(buffers, gradients, shrinks=shrinks))

    def before(self, buffer: Buffer) -> None:
        """Do to the dense sum of a block what comes before its norm."""
        self._divide(buffer)
        if self._limits_before:
            self._clipping.limit([buffer])

    def set_factors(self, squares: Array, entries: Sequence[int], shrunk: Callable[[], Array]) -> None:
        """Take the norms of all gradients that take part.

        Args:
            squares: the sum of squares of every variable's gradient, the same on all replicas.
            entries: the gradients that take part.
            shrunk: measures gradients times ``SHRINK``; called on all replicas or on none.
        """
        if self._clipping.needs_norms:
            self._factors = self._clipping.factors(Squares.of(squares, shrunk), entries)

    @property
    def is_idle_after(self) -> bool:
        """Return whether nothing is left to be done once the norms are known."""
        limits_values = self._clipping.clipvalue is not None and not self._limits_before
        return not limits_values and (self._factors is None or self._factors.is_one)

    def after(self, buffer: Buffer) -> None:
        """Do to the sum of a block, or to rows, what is left once the norms are known."""
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

    def _divide(self, buffer: Buffer) -> None:
        if self._divisor is not None and not (self.sums_wide and buffer[0].itemsize == 2):
            divide(buffer[0], buffer[1], self._divisor)
