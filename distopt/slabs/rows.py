"""Sparse gradients over replicas: the rows of all replicas, end to end in replica order.

Rows are not added here: who sees them (clipping by value, hooks) sees every replica's. ``IndexedSlices.deduplicate``
adds them afterwards, each replica's in order of appearance, then in the replica tree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from distopt.arrays import Array
from distopt.distribute.agreement.communicator import Communicator
from distopt.slabs.gradients import Gradients
from distopt.variables.indexed_slices import IndexedSlices


class RowOptions(Protocol):
    """How a step treats the rows of sparse gradients."""

    merges_rows: bool

    @property
    def hides_rows(self) -> bool:
        """Whether nothing looks at single rows before equal ones are added."""


def collect_rows(
    gradients: Gradients, communicator: Communicator | None, options: RowOptions, divisor: float | None
) -> None:
    """Gather, divide and merge the rows of every sparse gradient.

    Args:
        gradients: this step's; the sparse ones are replaced.
        communicator: whose rows are gathered; None leaves them as they are.
        options: what merges rows, and when.
        divisor: what rows are divided by, or None.
    """
    if not gradients.sparse:
        return
    if communicator is not None and communicator.size > 1:
        gather_rows(communicator, gradients, merge_first=options.hides_rows)
    if divisor is not None:
        with np.errstate(over="ignore", invalid="ignore"):  # as in the kernels: the sum is judged when it is whole
            gradients.sparse = {k: slices / divisor for k, slices in gradients.sparse.items()}
    if options.merges_rows:
        merge_rows(gradients)


def merge_rows(gradients: Gradients) -> None:
    """Add the equal rows of every sparse gradient."""
    gradients.sparse = {k: slices.deduplicate() for k, slices in gradients.sparse.items()}


def gather_rows(communicator: Communicator, gradients: Gradients, *, merge_first: bool) -> None:
    """Replace every sparse gradient by the concatenation over replicas.

    Args:
        communicator: the replicas; all have the same sparse entries.
        gradients: this step's gradients; the sparse ones are replaced.
        merge_first: add a replica's equal rows before they travel (nothing looks at single rows afterwards).
    """
    for entry, slices in sorted(gradients.sparse.items()):
        wide = slices.dtype.itemsize > 2  # a merged 16-bit row would be rounded twice
        mine = slices.deduplicate() if merge_first and wide else slices
        gradients.sparse[entry] = _concatenate(communicator, mine)


def _concatenate(communicator: Communicator, mine: IndexedSlices) -> IndexedSlices:
    table = np.empty((communicator.size, 1), np.int64)
    _spread(communicator, np.array([len(mine.indices)], np.int64), list(table))
    counts = table.ravel().tolist()
    values = np.empty((sum(counts), *mine.values.shape[1:]), mine.dtype)
    indices = np.empty(sum(counts), np.int64)
    _spread(communicator, np.ascontiguousarray(mine.values), _cut(values, counts))
    _spread(communicator, np.ascontiguousarray(mine.indices), _cut(indices, counts))
    result = IndexedSlices(values, indices, mine.dense_shape)
    result._row_counts = tuple(counts)
    return result


def _cut(array: Array, counts: Iterable[int]) -> list[Array]:
    ends = np.cumsum(list(counts))
    return [part.reshape(-1) for part in np.split(array, ends[:-1])]


def _spread(communicator: Communicator, mine: Array, parts: list[Array]) -> None:
    flat = mine.reshape(-1)
    communicator.transfer([flat if flat.size else None] * communicator.size, [p if p.size else None for p in parts])
