"""Small records from everybody to everybody, in the memory of a node that holds the whole job."""

from __future__ import annotations

from collections.abc import Iterator

from distopt.distribute.agreement.communicator import Array
from distopt.distribute.node.barrier import FlagBarrier
from distopt.distribute.node.node import Node
from distopt.memory.layout import new_segment

RECORD_BYTES = 192
"""Longer records go another way."""


class Mailbox:
    """Each replica writes its record, meets the others, and reads theirs.

    There are two places for a replica's record, in turns: who is ahead by one round does not write where another still
    reads, and nobody gets ahead by two.

    Args:
        node: a node that holds the whole job; its replicas make the mailbox together.
    """

    def __init__(self, node: Node) -> None:
        # Its own: a failure that a replica offers here must not be taken for an arrival at the node's barrier.
        self._barrier = FlagBarrier(node, is_for_records=True)
        segment = new_segment(2 * RECORD_BYTES * len(node.members))
        node.unite([segment])
        assert segment is not None
        self._records = segment.bytes.reshape(-1, 2, RECORD_BYTES)
        self._me, self._rounds = node.index_on_node, 0

    def abandon(self) -> None:
        """Make this replica's thread that waits in it, and every later one, raise."""
        self._barrier.abandon()

    def gather(self, mine: Array, deadline: float | None) -> Array:
        """Give every replica everybody's record.

        Args:
            mine: at most RECORD_BYTES bytes, as many on every replica.
            deadline: ``time.monotonic()`` time after which to give up; None waits.

        Raises:
            TimeoutError: the deadline passed.
        """
        records = self._put(mine)
        self._barrier(deadline)
        return records.copy()

    def gathering(self, mine: Array) -> Iterator[Array | None]:
        """Give every replica everybody's record; None as long as one is missing."""
        records = self._put(mine)
        self._barrier.arrive()
        while not self._barrier.have_all_come():
            yield None
        yield records.copy()

    def _put(self, mine: Array) -> Array:
        """Write this replica's record, and return the place of all of this round."""
        self._rounds += 1
        records = self._records[:, self._rounds % 2, : mine.size]
        records[self._me] = mine
        return records
