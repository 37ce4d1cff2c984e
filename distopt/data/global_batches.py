"""Global batches of arrays that every replica holds, and each replica's share of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from distopt.arguments import as_int
from distopt.arrays import native
from distopt.data.agreement import same_everywhere
from distopt.data.current import OpenBatch
from distopt.data.structure import Array, leaves_of, rebuild
from distopt.distribute.belonging import Belonging, in_own_scope
from distopt.distribute.collectives import exchange
from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError
from distopt.memory.digests import digest
from distopt.process.replica import Replica, current_replica


@dataclass(frozen=True, eq=False)
class Batch:
    """One replica's share of a global batch."""

    arrays: Any
    """This replica's examples (copies), in the structure that ``batches`` was given; may hold no example."""
    items: int
    """The number of examples that this replica has."""
    global_size: int
    """The number of examples that all replicas have together; a loss is averaged over them."""
    epoch: int
    """The number of the epoch, from 0."""
    ends_epoch: bool
    """True in the last batch of an epoch."""


class Batches:
    """The batches that ``batches`` returns: each ``iter()`` starts again; ``len()`` counts the batches of all epochs.

    ``state()`` returns the position after the batch handed out last. ``resume(state)`` makes the next ``iter()``, and
    only the next, begin there, with any number of replicas and any ``global_batch_size``. ``distopt.checkpoint`` uses
    both methods.
    """

    def __init__(self, arrays: Any, *, global_batch_size: int, epochs: int, seed: int, shuffle: bool) -> None:
        self.arrays = arrays
        self.global_batch_size = _integer("global_batch_size", global_batch_size, 1, 2**63)
        self.epochs = _integer("epochs", epochs, 1, 2**63)
        self.seed = _integer("seed", seed, 0, 2**64)
        self.shuffle = shuffle
        self._distopt_belonging = Belonging()
        self._leaves = leaves_of(arrays, "arrays")
        self.examples = len(next(iter(self._leaves.values())))
        if self.examples == 0:
            raise InvalidArgumentError("batches received arrays without examples: the first axis has length 0.")
        # By replica, for simulated ones may iterate over one object: epoch, and examples of it that were handed out.
        self._positions: WeakKeyDictionary[Replica, tuple[int, int]] = WeakKeyDictionary()
        self._beginnings: WeakKeyDictionary[Replica, tuple[int, int]] = WeakKeyDictionary()

    def __len__(self) -> int:
        return self.epochs * -(-self.examples // self.global_batch_size)

    def __iter__(self) -> Iterator[Batch]:
        replica = current_replica()
        first_epoch, first = self._beginnings.pop(replica, (0, 0))
        self.agree(first_epoch, first)
        current = OpenBatch()
        try:
            for epoch in range(first_epoch, self.epochs):
                order = self.order(epoch)
                for start in range(first, self.examples, self.global_batch_size):
                    end = start + self.global_batch_size
                    is_last = end >= self.examples
                    batch = self.share(order[start:end], epoch, ends_epoch=is_last)
                    current.make_current(batch.items, batch.global_size)
                    self._positions[replica] = (epoch + 1, 0) if is_last else (epoch, end)
                    yield batch
                first = 0
        finally:
            current.withdraw()

    def state(self) -> dict[str, Any]:
        """Return this replica's position, as JSON can hold it: a batch counts as done once it has been handed out.

        Example:
            >>> data = batches(np.arange(10), global_batch_size=4, shuffle=False)
            >>> _ = next(iter(data))
            >>> data.state()
            {'epoch': 0, 'example': 4, 'examples': 10, 'seed': 0, 'shuffle': False}
        """
        epoch, example = self._positions.get(current_replica(), (0, 0))
        return {"epoch": epoch, "example": example} | self._order_description

    def resume(self, state: Mapping[str, Any]) -> None:
        """Begin the next iteration at a position that ``state`` returned. Every replica calls it.

        Args:
            state: the position.

        Raises:
            InvalidArgumentError: the state is a position in other data, or in another order.

        Example:
            >>> data = batches(np.arange(10), global_batch_size=4, shuffle=False)
            >>> data.resume(data.state() | {"example": 4})
            >>> [batch.arrays.tolist() for batch in data]
            [[4, 5, 6, 7], [8, 9]]
        """
        for name, value in self._order_description.items():
            if state.get(name) != value:
                raise InvalidArgumentError(
                    f"batches: the position is one in an order with {name} = {state.get(name)!r}, and here it is "
                    f"{value!r}: go on with the same examples, seed and shuffle."
                )
        epoch = _integer("the position's epoch", state.get("epoch"), 0, 2**63)
        example = _integer("the position's example", state.get("example"), 0, self.examples)
        self._positions[current_replica()] = self._beginnings[current_replica()] = epoch, example

    @property
    def _order_description(self) -> dict[str, Any]:
        return {"examples": self.examples, "seed": self.seed, "shuffle": bool(self.shuffle)}

    def order(self, epoch: int) -> Array:
        """Return the positions of the examples in the order of ``epoch``, the same on every replica."""
        if not self.shuffle:
            return np.arange(self.examples)
        # Not Generator.permutation: NumPy keeps only the raw streams the same in all its versions.
        philox = np.random.Philox(key=np.array([self.seed, epoch], np.uint64))
        return np.argsort(philox.random_raw(self.examples), kind="stable")

    @in_own_scope
    def share(self, chosen: Array, epoch: int, ends_epoch: bool) -> Batch:
        """Return this replica's slice of a global batch; sizes differ by at most one, larger first.

        Args:
            chosen: the batch's examples, as indices into the arrays.
            epoch: the epoch that it belongs to.
            ends_epoch: whether it is the last of it.
        """
        strategy = get_strategy()
        size, longer = divmod(len(chosen), strategy.num_replicas_in_sync)
        index = strategy.replica_index
        start = index * size + min(index, longer)
        mine = chosen[start : start + size + (index < longer)]
        arrays = rebuild(self.arrays, [native(leaf[mine]) for leaf in self._leaves.values()])
        return Batch(arrays, len(mine), len(chosen), epoch, ends_epoch)

    @in_own_scope
    def agree(self, first_epoch: int, first: int) -> None:
        """Raise on every replica if they would not cut the same batches (a collective).

        Args:
            first_epoch: the epoch that begins.
            first: its first example.
        """
        mine = {
            "begins with": f"epoch {first_epoch}, example {first}",
            "global_batch_size": self.global_batch_size,
            "epochs": self.epochs,
            "seed": self.seed,
            "shuffle": bool(self.shuffle),
            "arrays": {name: f"{leaf.dtype} {leaf.shape}" for name, leaf in self._leaves.items()},
            "digest of a sample of the examples": {name: _sample_digest(leaf) for name, leaf in self._leaves.items()},
        }
        received = exchange("data.batches", json.dumps(mine, sort_keys=True).encode())
        same_everywhere("batches(...)", dict(enumerate(text.decode() for text in received)))


def _sample_digest(leaf: Array) -> str:
    """Return a digest of at most a megabyte of evenly spaced examples: enough to see that replicas have other data."""
    if leaf.dtype.hasobject:
        return "not taken"
    rows = min(256, max(1, (1 << 20) // max(1, leaf[:1].nbytes)))
    return digest([leaf[:: max(1, len(leaf) // rows)]])


def batches(arrays: Any, *, global_batch_size: int, epochs: int = 1, seed: int = 0, shuffle: bool = True) -> Batches:
    """Cut arrays into global batches and give each replica its share.

    The global order is the same for every number of replicas and every launch: the positions sorted by the
    first 64-bit outputs of the counter-based generator Philox with the key (seed, epoch). Each replica's
    share is a contiguous slice of the global batch; sizes differ by at most one, larger ones first. A short
    last batch and a share without examples are normal: every example is used exactly once per epoch.

    While a batch is current, losses with ``Reduction.SUM_OVER_BATCH_SIZE`` divide by its ``global_size``. All
    replicas iterate together (the beginning of an iteration is a collective).

    Args:
        arrays: an array, or a tuple, list or dict of arrays, with examples on the first axis, equally many in
            each; the same on every replica; not mutated.
        global_batch_size: examples per step, over all replicas; >= 1.
        epochs: number of times that each example is used; >= 1.
        seed: 0 to 2**64 - 1.
        shuffle: whether to draw a new order for each epoch; else the order is that of the arrays.

    Returns:
        An iterable of `Batch` that can be iterated again, with ``len()``.

    Raises:
        InvalidArgumentError: an argument out of its range, no examples, or arrays of different lengths; while
            iterating, on every replica: replicas with different arguments.

    Example:
        >>> x, y = np.arange(10.0), np.arange(10) % 2
        >>> for batch in batches((x, y), global_batch_size=4, shuffle=False):
        ...     local_x, local_y = batch.arrays
        ...     print(local_x, batch.global_size, batch.ends_epoch)
        [0. 1. 2. 3.] 4 False
        [4. 5. 6. 7.] 4 False
        [8. 9.] 2 True

    Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011), for Philox.
    """
    return Batches(arrays, global_batch_size=global_batch_size, epochs=epochs, seed=seed, shuffle=shuffle)


def _integer(name: str, value: Any, least: int, limit: int) -> int:
    number = as_int(value)
    if number is None or not least <= number < limit:
        raise InvalidArgumentError(f"batches: {name} must be an integer >= {least}, received {value!r}.")
    return number
