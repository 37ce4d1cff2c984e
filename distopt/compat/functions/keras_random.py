"""Random numbers with the arguments of ``keras.random``: a number as the seed gives the same values at each call."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.compat.functions import random


class SeedGenerator:
    """A seed of its own for the functions of this module, which then return other values at each call.

    Args:
        seed: the seed.
        name: ignored.
    """

    def __init__(self, seed: int | None = None, name: str | None = None) -> None:
        self.initial_seed = 0 if seed is None else int(seed)

    def next(self, ordered: bool = True) -> Any:
        """Return a seed, another one at each call."""
        return random.generator(self.initial_seed).integers(2**31, size=2).astype(np.uint32)


def normal(shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> Any:
    """Return normally distributed numbers."""
    if isinstance(seed, int):
        return random.stateless_normal(shape, seed, mean, stddev, dtype)
    return random.normal(shape, mean, stddev, dtype, _seed(seed))


def uniform(shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None, seed: Any = None) -> Any:
    """Return equally distributed numbers below ``maxval``."""
    if isinstance(seed, int):
        return random.stateless_uniform(shape, seed, minval, maxval, dtype)
    return random.uniform(shape, minval, maxval, dtype, _seed(seed))


def randint(shape: Any, minval: Any, maxval: Any, dtype: Any = "int32", seed: Any = None) -> Any:
    """Return equally distributed whole numbers below ``maxval``."""
    return uniform(shape, minval, maxval, dtype, seed)


def truncated_normal(shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> Any:
    """Return normally distributed numbers within two standard deviations of their mean."""
    return random.truncated_normal(shape, mean, stddev, dtype, seed if isinstance(seed, int) else _seed(seed))


def shuffle(x: Any, axis: int = 0, seed: Any = None) -> Any:
    """Return the parts of an array along an axis in a random order."""
    return np.moveaxis(random.shuffle(np.moveaxis(np.asarray(x), axis, 0), _seed(seed)), 0, axis)


def _seed(seed: Any) -> int | None:
    return seed.initial_seed if isinstance(seed, SeedGenerator) else seed
