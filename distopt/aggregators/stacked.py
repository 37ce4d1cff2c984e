"""Aggregation by a function of the matrix of all replicas' gradients: for robust aggregation and research."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np

from distopt.aggregators.aggregator import Aggregator
from distopt.arrays import Array, native
from distopt.distribute.collectives import all_gather
from distopt.errors import InvalidArgumentError
from distopt.slabs.fitting import Pair
from distopt.variables.indexed_slices import IndexedSlices


@final
class Stacked(Aggregator):
    """Aggregate by a function of all replicas' gradients: ``aggregate = fn(G)``, G of shape (R, N).

    Row r of G holds the gradients of replica r: those of all variables of one dtype, one after another. Every replica
    calls ``fn`` with the same matrix, so a deterministic function gives the same aggregate everywhere. R x N elements
    travel and are held in memory. Remember that the default is a *sum*: a function in its place should return values as
    large as a sum, such as R times the median.

    Args:
        fn: function of an array (R, N) that returns an array (N,); the matrix may be overwritten.

    Example:
        >>> import distopt
        >>> def median():
        ...     v = distopt.Variable([0.0])
        ...     mine = np.float32([[0.0, 1.0, 100.0][distopt.replica_index()]])
        ...     return Stacked(lambda g: np.median(g, axis=0))([(mine, v)])[0][0].item()
        >>> distopt.simulate(3, median)
        [1.0, 1.0, 1.0]
    """

    def __init__(self, fn: Callable[[Array], Any]) -> None:
        if not callable(fn):
            raise InvalidArgumentError(f"Stacked(fn={fn!r}): expected a function from (R, N) to (N,)")
        self._fn = fn

    def __call__(self, grads_and_vars: list[Pair]) -> list[Pair]:
        """Return the aggregated gradients; sparse ones are made dense."""
        arrays = [g.to_dense() if isinstance(g, IndexedSlices) else native(np.asarray(g)) for g, _ in grads_and_vars]
        results: list[Any] = [None] * len(arrays)
        for dtype in dict.fromkeys(a.dtype for a in arrays):
            members = [k for k, a in enumerate(arrays) if a.dtype == dtype]
            matrix = all_gather(np.concatenate([arrays[k].reshape(-1) for k in members]))
            width = matrix.shape[1]
            row = np.asarray(self._fn(matrix))
            if row.shape != (width,):
                raise InvalidArgumentError(
                    f"the function of Stacked returned shape {row.shape} for a matrix of shape {matrix.shape}: "
                    f"expected ({width},), one value per column"
                )
            ends = np.cumsum([arrays[k].size for k in members])[:-1]
            for k, part in zip(members, np.split(row.astype(dtype, copy=False), ends), strict=True):
                results[k] = part.reshape(arrays[k].shape)
        return [(result, variable) for result, (_, variable) in zip(results, grads_and_vars, strict=True)]
