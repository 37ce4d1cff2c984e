"""Random numbers inside of optimizers: TensorFlow's functions and Keras', in NumPy's numbers.

Behind the sum (in update methods and transformers) every replica draws the same numbers, which are a function of the
seed, the optimizer's name and step, and the number of draws in this step. Everywhere else (in hooks before the sum, in
losses) each replica draws its own, independent ones. A checkpoint holds the counts, so that a run that is resumed
draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt import ops
from distopt.arrays import to_dtype
from distopt.compat.functions.arrays import convert_to_tensor
from distopt.distribute.strategy import get_strategy
from distopt.initializers.random import truncated_normal as standard_truncated_normal
from distopt.process.draws import Draws
from distopt.process.replica import current_replica


def generator(seed: int | None = None) -> np.random.Generator:
    """Return the generator of one draw.

    Args:
        seed: the seed of the operation, beside that of the program.
    """
    replica, number = current_replica(), 0 if seed is None else int(seed) + 1
    call = replica.of_thread.updating
    if call is not None:
        return replica.draws.of_step(call.family.name, call.engine.training.calls, number)
    return replica.draws.of_replica(get_strategy().replica_index, number)


def set_seed(seed: int) -> None:
    """Set the seed of the program: give the same one on every replica."""
    current_replica().draws = Draws(int(seed))


def normal(shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = "float32", seed: int | None = None) -> Any:
    """Return normally distributed numbers."""
    return _normal(generator(seed), shape, mean, stddev, dtype)


def truncated_normal(
    shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = "float32", seed: int | None = None
) -> Any:
    """Return normally distributed numbers within two standard deviations of their mean."""
    return _placed(standard_truncated_normal(generator(seed), _shape(shape)), mean, stddev, dtype)


def uniform(shape: Any, minval: Any = 0, maxval: Any = None, dtype: Any = "float32", seed: int | None = None) -> Any:
    """Return equally distributed numbers below ``maxval``, which is 1 by default; of integers it must be given."""
    return _uniform(generator(seed), shape, minval, maxval, dtype)


def shuffle(value: Any, seed: int | None = None) -> Any:
    """Return rows in a random order."""
    array = convert_to_tensor(value)
    return np.take(array, generator(seed).permutation(len(array)), 0)


def stateless_normal(
    shape: Any, seed: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = "float32", alg: Any = None
) -> Any:
    """Return normally distributed numbers that are a function of the seed alone."""
    return _normal(_stateless(seed), shape, mean, stddev, dtype)


def stateless_uniform(
    shape: Any, seed: Any, minval: Any = 0, maxval: Any = None, dtype: Any = "float32", alg: Any = None
) -> Any:
    """Return equally distributed numbers that are a function of the seed alone."""
    return _uniform(_stateless(seed), shape, minval, maxval, dtype)


class Generator:
    """A source of random numbers with a seed of its own; otherwise as the functions of this module.

    Args:
        seed: the seed.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = 0 if seed is None else int(seed)

    @classmethod
    def from_seed(cls, seed: int, alg: Any = None) -> Generator:
        """Make a source."""
        return cls(seed)

    @classmethod
    def from_non_deterministic_state(cls, alg: Any = None) -> Generator:
        """Make a source with the seed 0: what replicas must draw alike can't come from chance."""
        return cls()

    def normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = "float32") -> Any:
        """Return normally distributed numbers."""
        return normal(shape, mean, stddev, dtype, self.seed)

    def truncated_normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = "float32") -> Any:
        """Return normally distributed numbers within two standard deviations of their mean."""
        return truncated_normal(shape, mean, stddev, dtype, self.seed)

    def uniform(self, shape: Any, minval: Any = 0, maxval: Any = None, dtype: Any = "float32") -> Any:
        """Return equally distributed numbers."""
        return uniform(shape, minval, maxval, dtype, self.seed)


def _normal(source: np.random.Generator, shape: Any, mean: Any, stddev: Any, dtype: Any) -> Any:
    return _placed(np.asarray(source.standard_normal(_shape(shape))), mean, stddev, dtype)


def _placed(standard: Any, mean: Any, stddev: Any, dtype: Any) -> Any:
    values = standard * ops.convert_to_numpy(stddev) + ops.convert_to_numpy(mean)
    return values.astype(to_dtype("float32" if dtype is None else dtype))


def _uniform(source: np.random.Generator, shape: Any, minval: Any, maxval: Any, dtype: Any) -> Any:
    known = to_dtype("float32" if dtype is None else dtype)
    low, high = ops.convert_to_numpy(minval), ops.convert_to_numpy(1.0 if maxval is None else maxval)
    if known.kind in "iu":
        return source.integers(low.astype(np.int64), high.astype(np.int64), _shape(shape)).astype(known)
    return (low + np.asarray(source.random(_shape(shape))) * (high - low)).astype(known)


def _stateless(seed: Any) -> np.random.Generator:
    return np.random.default_rng([int(number) % 2**63 for number in np.atleast_1d(np.asarray(seed))])


def _shape(shape: Any) -> Sequence[int]:
    return tuple(int(n) for n in np.atleast_1d(np.asarray(shape, np.int64)))
