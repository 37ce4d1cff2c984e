"""Sparse gradients over replicas: the rows of all, end to end in replica order, and the sums of equal ones.

``merge_rows`` adds equal rows: each replica's in order of appearance, then in the replica tree. Limits, hooks and the
look for what is not finite see rows as they are then, so it matters when it is called:

* before rows travel, where nothing looks at single rows: fewer travel. Not in 16 bits, where sums would be rounded
  once more.
* when rows are gathered and divided, in the Keras 3 family: whoever looks sees each row once.
* after transformers, in the Keras 3 family: they may return rows that repeat.

The legacy family adds the rows of one variable in its update: whoever looks before that sees every replica's, as
upstream.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from distopt.arrays import Array
from distopt.distribute.agreement.communicator import Communicator
from distopt.slabs.gradients import Gradients
from distopt.variables.indexed_slices import IndexedSlices


def merge_rows(gradients: Gradients, *, may_round: bool = True) -> None:
    """Add the equal rows of every sparse gradient.

    Args:
        gradients: this step's; the sparse ones are replaced.
        may_round: whether 16-bit sums are rounded now; else 16-bit rows stay single.
    """
    dtypes = gradients.slab.dtypes
    gradients.sparse = {
        k: slices.deduplicate().astype(dtypes[k]) if may_round or slices.dtype.itemsize > 2 else slices
        for k, slices in gradients.sparse.items()
    }


def gather_rows(communicator: Communicator, gradients: Gradients) -> None:
    """Replace every sparse gradient by the concatenation over replicas.

    Args:
        communicator: the replicas; all have the same sparse entries.
        gradients: this step's; the sparse ones are replaced.
    """
    for entry, slices in sorted(gradients.sparse.items()):
        gradients.sparse[entry] = _concatenate(communicator, slices)


def _concatenate(communicator: Communicator, mine: IndexedSlices) -> IndexedSlices:
    table = np.empty((communicator.size, 1), np.int64)
    _spread(communicator, np.array([len(mine.indices)], np.int64), list(table))
    counts = table.ravel().tolist()
    values = np.empty((sum(counts), *mine.values.shape[1:]), mine.dtype)
    indices = np.empty(sum(counts), np.int64)
    _spread(communicator, np.ascontiguousarray(mine.values), _cut(values, counts))
    _spread(communicator, np.ascontiguousarray(mine.indices), _cut(indices, counts))
    return IndexedSlices.of_replicas(values, indices, mine.dense_shape, tuple(counts))


def _cut(array: Array, counts: Iterable[int]) -> list[Array]:
    ends = np.cumsum(list(counts))
    return [part.reshape(-1) for part in np.split(array, ends[:-1])]


def _spread(communicator: Communicator, mine: Array, parts: list[Array]) -> None:
    flat = mine.reshape(-1)
    communicator.transfer([flat if flat.size else None] * communicator.size, [p if p.size else None for p in parts])
