"""Random numbers that replicas draw: the same on all of them, or each its own; a run that is resumed goes on with them.

Each call gets a generator of its own, made from the seed and from what the call is for. So only a few counts have to be
kept in a checkpoint, and none behind the sum, where the step itself is counted.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_IN_STEPS, _OF_REPLICAS, _OF_ALL = range(3)


class Draws:
    """The counts of one replica's random numbers.

    Args:
        seed: the seed of the program, the same on all replicas.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.by_replica = 0
        """The number of times that this replica has drawn for itself alone."""
        self.by_all = 0
        """The number of times that it has drawn what all replicas draw."""
        self._step: tuple[str, int] = ("", -1)
        self._in_step = 0

    def of_step(self, optimizer: str, calls: int, seed: int) -> np.random.Generator:
        """Return a generator for a step's update: the same on all replicas, and whenever the step is done again.

        Args:
            optimizer: the optimizer's name.
            calls: the calls that it has counted.
            seed: the seed of this call.
        """
        if self._step != (optimizer, calls):
            self._step, self._in_step = (optimizer, calls), 0
        self._in_step += 1
        return self._generator(
            seed, _IN_STEPS, zlib.crc32(optimizer.encode(errors="surrogatepass")), calls, self._in_step
        )

    def of_replica(self, index: int, seed: int) -> np.random.Generator:
        """Return a generator for this replica alone, which is independent of those of others.

        Args:
            index: the replica's index.
            seed: the seed of this call.
        """
        self.by_replica += 1
        return self._generator(seed, _OF_REPLICAS, index, self.by_replica)

    def of_all(self, seed: int = 0) -> np.random.Generator:
        """Return a generator for what all replicas draw in the same order, such as initial values."""
        self.by_all += 1
        return self._generator(seed, _OF_ALL, self.by_all)

    def copy(self) -> Draws:
        """Return counts that go on from these."""
        other = Draws()
        other.restore(self.state())
        return other

    def state(self) -> dict[str, int]:
        """Return what a checkpoint has to hold."""
        return {"seed": self.seed, "by_replica": self.by_replica, "by_all": self.by_all}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.seed, self.by_replica, self.by_all = (int(state[name]) for name in ("seed", "by_replica", "by_all"))

    def _generator(self, *key: int) -> np.random.Generator:
        from numpy.random import default_rng  # now: the launcher is read without it

        return default_rng([number % 2**63 for number in (self.seed, *key)])
