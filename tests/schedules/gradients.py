"""What each replica of a random program brings to an action, and what one replica with the whole batch does."""

from __future__ import annotations

from typing import Any

import numpy as np
from schedules.programs import Action, Program

from distopt import IndexedSlices
from distopt.arrays import to_dtype


def gradients_of(program: Program, number: int, replica: int) -> list[Any]:
    """Return what a replica brings to an action: small whole numbers, rows of them, or None."""
    action = program.actions[number]
    rng = np.random.default_rng([program.seed, number, replica, 7])
    gradients = [_gradient(rng, pattern, *program.variables[k]) for k, pattern in _pairs(action)]
    if action.is_infinite and replica == number % program.replicas:
        shape, dtype = program.variables[action.entries[0]]
        gradients[0] = np.full(shape, np.inf, to_dtype(dtype))
    return gradients


def _pairs(action: Action) -> list[tuple[int, str]]:
    """Return (entry, pattern) pairs; the first gradient is there on all replicas."""
    return list(zip(action.entries, ("dense", *action.patterns[1:]), strict=True))


def _gradient(rng: np.random.Generator, pattern: str, shape: tuple[int, ...], dtype: str) -> Any:
    if pattern == "mixed":
        pattern = str(rng.choice(["dense", "sparse", "absent"]))
    if pattern == "absent":
        return None
    dense = np.asarray(rng.integers(-8, 9, shape)).astype(to_dtype(dtype))
    if pattern == "dense" or not shape:
        return dense
    rows = rng.integers(shape[0], size=rng.integers(5))
    return IndexedSlices(dense[rows], rows, shape)


def join(column: tuple[Any, ...]) -> Any:
    """Return the gradient of the joined batch: the sum of all replicas', as rows where there are only rows."""
    present = [gradient for gradient in column if gradient is not None]
    if not present:
        return None
    if all(isinstance(gradient, IndexedSlices) for gradient in present):
        values, indices = zip(*((g.values, g.indices) for g in present), strict=True)
        return IndexedSlices(np.concatenate(values), np.concatenate(indices), present[0].dense_shape)
    dense = [g.to_dense() if isinstance(g, IndexedSlices) else g for g in present]
    total = dense[0].copy()
    for other in dense[1:]:
        total += other
    return total
