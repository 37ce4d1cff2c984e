"""Sums and transfers of arrays of the replicas' own, through memory that the replicas of a whole job share.

Piece by piece: a piece is copied in, all meet, and whoever needs it reads it there: meanwhile it stays in the cache.
There are two places for a piece, in turns: who is ahead by one piece does not write where another still reads, and
nobody gets ahead by two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import pairwise

import numpy as np

from distopt.distribute.agreement.communicator import Array, Stage, does_something_else
from distopt.distribute.node.node import Node
from distopt.memory.layout import new_segment

_PIECE_BYTES = 1 << 22
_SMALL_BYTES = 1 << 15
"""Up to here every replica adds all of it: waiting once more takes longer."""

_CACHE_LINE = 64
_BOX_BYTES = 1 << 22
"""Bytes that a replica sends to another at once. Replicas that outnumber the cores meet no more often than that."""

_NODE_BYTES = 1 << 28
"""The most that all boxes of a node may take; many replicas have smaller ones."""


class Staging:
    """Memory that the replicas of one communicator share for their sums.

    Args:
        node: a node that holds the whole job; its replicas make the staging together.
        operation: surrounds every use.

    Raises:
        NoSharedMemoryError: there is no room.
    """

    def __init__(self, node: Node, operation: Callable[[], AbstractContextManager[None]]) -> None:
        self._index, self._barrier, self._operation = node.index_on_node, node.barrier, operation
        memories = node.share(new_segment(2 * _PIECE_BYTES))
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
        begin, end = spans[self._index]
        is_small = piece.nbytes <= _SMALL_BYTES

        def collect() -> None:
            with self._operation():
                rows[self._index][...] = piece
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
        return Stage(collect, mine, mine[self._index], distribute)


class Exchange:
    """Memory that the replicas of one communicator share for their transfers: a box for each ordered pair of them.

    Args:
        node: a node that holds the whole job; its replicas make the exchange together.

    Raises:
        NoSharedMemoryError: there is no room.
    """

    def __init__(self, node: Node) -> None:
        count = len(node.members)
        self._me, self._members, self._barrier = node.index_on_node, range(count), node.barrier
        self._box_bytes = min(
            _BOX_BYTES, max(_CACHE_LINE, _NODE_BYTES // (2 * count * count) // _CACHE_LINE * _CACHE_LINE)
        )
        boxes = 2 * count * count * self._box_bytes
        segment = new_segment(boxes + 2 * count * count * 8)
        node.unite([segment])
        assert segment is not None
        self._boxes = segment.bytes[:boxes].reshape(2, count, count, -1)
        """By turn, sender and receiver."""
        self._sizes = segment.bytes[boxes:].view(np.int64).reshape(2, count, count)
        """The bytes that are sent, written in the turn in which a transfer begins."""
        self._turn = 0

    def __call__(self, sends: Mapping[int, Array], receives: Mapping[int, Array]) -> None:
        """Send and receive arrays of bytes; all replicas call it together.

        Raises:
            DeadCommunicatorError: it was abandoned.
            ReplicaLostError: a replica is gone.
            ReplicaFailedError: a replica sends more or less than is awaited.
        """
        sizes = self._sizes[self._turn]
        sizes[self._me] = [sends[r].size if r in sends else 0 for r in self._members]
        boxes = self._send(sends, 0)
        for r, sent in enumerate(sizes[:, self._me].tolist()):
            awaited = receives[r].size if r in receives else 0
            if sent != awaited:
                raise does_something_else(r, f"{sent} bytes (payload)", f"{awaited} bytes (payload)")
        longest = int(sizes.max())
        self._receive(receives, 0, boxes)
        for begin in range(self._box_bytes, longest, self._box_bytes):
            self._receive(receives, begin, self._send(sends, begin))

    def _send(self, sends: Mapping[int, Array], begin: int) -> Array:
        """Copy the next part of each array into a box, and return all boxes when everybody has."""
        boxes: Array = self._boxes[self._turn]
        for r, array in sends.items():
            part = array[begin : begin + self._box_bytes]
            boxes[self._me, r, : part.size] = part
        self._barrier()
        self._turn = 1 - self._turn
        return boxes

    def _receive(self, receives: Mapping[int, Array], begin: int, boxes: Array) -> None:
        for r, array in receives.items():
            part = array[begin : begin + self._box_bytes]
            part[...] = boxes[r, self._me, : part.size]
