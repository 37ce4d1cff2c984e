"""The sum of arrays of one's own on a node that holds the whole job: through memory that all replicas share.

A piece is copied in, its owners add it where it lies, and every replica copies it out: meanwhile it stays in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise

from distopt.distribute.agreement.communicator import Array, Stage
from distopt.distribute.node.node import Node
from distopt.memory.layout import new_segment

_PIECE_BYTES = 1 << 22
_SMALL_BYTES = 1 << 15
"""Up to here every replica adds all of it: waiting once more takes longer."""


class Staging:
    """What the replicas of one communicator share for their sums: two places for a piece of each, used in turns.

    Args:
        node: a node that holds the whole job; its replicas make the staging together.
        operation: surrounds every use.

    Raises:
        NoSharedMemoryError: there is no room.
    """

    def __init__(self, node: Node, operation: Callable[[], AbstractContextManager[None]]) -> None:
        self._place, self._barrier, self._operation = node.place, node.barrier, operation
        self._segment = new_segment(2 * _PIECE_BYTES)
        memories = node.share(self._segment)
        self._halves = [[memory[h * _PIECE_BYTES :][:_PIECE_BYTES] for memory in memories] for h in (0, 1)]

    def abandon(self) -> None:
        """Make this replica's thread that waits in a sum, and every later one, raise."""
        self._barrier.abandon()

    def stages(self, flat: Array, limits: Callable[[int, int], list[int]]) -> list[Stage]:
        """Return the stages of a sum, one per piece.

        Args:
            flat: contiguous array of shape (n,).
            limits: cuts a piece of so many elements into spans for so many replicas.
        """
        length = _PIECE_BYTES // flat.itemsize
        pieces = [flat[begin : begin + length] for begin in range(0, flat.size, length)]
        return [self._stage(k, piece, limits, is_last=k == len(pieces) - 1) for k, piece in enumerate(pieces)]

    def _stage(self, number: int, piece: Array, limits: Callable[[int, int], list[int]], *, is_last: bool) -> Stage:
        rows = [memory[: piece.nbytes].view(piece.dtype) for memory in self._halves[number % 2]]
        spans = list(pairwise(limits(piece.size, len(rows))))
        begin, end = spans[self._place]
        is_small = piece.nbytes <= _SMALL_BYTES

        def collect() -> None:
            with self._operation():
                rows[self._place][...] = piece
                self._barrier()

        def distribute() -> None:
            with self._operation():
                if not is_small:
                    self._barrier()
                    for row, (first, last) in zip(rows, spans, strict=True):
                        piece[first:last] = row[first:last]
                if is_last:  # the next sum begins in the first half again
                    self._barrier()

        if is_small:
            return Stage(collect, rows, piece, distribute)
        mine = [row[begin:end] for row in rows]
        return Stage(collect, mine, mine[self._place], distribute)
