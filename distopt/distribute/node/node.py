"""The replicas of one node, and the memory that they share. Knows no transport: whoever can gather records can have it.

Every replica makes its own segments; a segment's ticket travels in a record, and the others of the node map it.
Either every replica of the job has what it asked for, or none has: then ``NoSharedMemoryError`` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from distopt.distribute.agreement.communicator import Array, Barrier, Communicator
from distopt.distribute.agreement.header import exchange_bytes, exchange_texts
from distopt.errors import NoSharedMemoryError
from distopt.memory.segment import TICKET, Segment, map_segment

T = TypeVar("T")


class Node:
    """The replicas that run on this replica's node.

    Args:
        communicator: all replicas of the job, which make their nodes together.

    Raises:
        NoSharedMemoryError: the replicas of some node can't share memory, or the transport has no nodes.
    """

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self.nodes = communicator.nodes
        self.here = self.nodes[communicator.index]
        self.members = tuple(r for r, node in enumerate(self.nodes) if node == self.here)
        """The replica indices on this node, ascending."""
        self.index_on_node = self.members.index(communicator.index)
        """The index of this replica among them."""
        self.is_whole_job = len(self.members) == communicator.size
        barrier = communicator.node_barrier(self)
        if barrier is None:
            raise NoSharedMemoryError(f"replicas of the transport {communicator.name!r} share no memory")
        self.barrier: Barrier = barrier
        """Returns when every replica of the node has called it."""

    def delegate(self, owner: int, node: int) -> int:
        """Return the replica that works on a node for the owner of a span: the owner itself where it runs there."""
        members = [r for r, its_node in enumerate(self.nodes) if its_node == node]
        return owner if owner in members else members[owner % len(members)]

    def represented_owners(self) -> list[int]:
        """Return the owners on other nodes that this replica works for."""
        me = self.communicator.index
        return [s for s in range(len(self.nodes)) if s not in self.members and self.delegate(s, self.here) == me]

    def share(self, segment: Segment | None) -> list[Array]:
        """Return the segments of all replicas of the node, as uint8 arrays (collective over the job).

        Args:
            segment: this replica's; None where it could not be made.

        Raises:
            NoSharedMemoryError: on every replica, where it fails on one.
        """

        def open_all(tickets: list[bytes]) -> list[Array]:
            assert segment is not None
            return [segment.bytes if k == self.index_on_node else map_segment(t) for k, t in enumerate(tickets)]

        return self._together([segment], open_all)

    def unite(self, segments: Sequence[Segment | None]) -> None:
        """Make this replica's segments show the memory of the node's first replica (collective over the job).

        They are united for good: their files are closed, or every optimizer would keep several open.

        Args:
            segments: as many on every replica; None where one could not be made.

        Raises:
            NoSharedMemoryError: on every replica, where one is missing on any; nothing has changed then.
        """

        def join_first(tickets: list[bytes]) -> None:
            for k, segment in enumerate(segments if self.index_on_node > 0 else ()):
                assert segment is not None
                segment.become(tickets[0][k * TICKET.size : (k + 1) * TICKET.size])

        self._together(segments, join_first)
        for segment in segments:
            assert segment is not None
            segment.close()

    def _together(self, segments: Sequence[Segment | None], use: Callable[[list[bytes]], T]) -> T:
        """Exchange tickets, use those of the node, and see that it went well everywhere."""
        rows = exchange_bytes(self.communicator, b"".join(each.ticket for each in segments if each is not None))
        result, trouble = None, ""
        if all(len(row) == TICKET.size * len(segments) for row in rows):
            try:
                result = use([rows[r] for r in self.members])
            except OSError as error:
                trouble = f"replica {self.communicator.index}: {error}"
        else:
            trouble = "a replica could not make its part: no memfd, and no room in /dev/shm"
        troubles = exchange_texts(self.communicator, trouble)
        if any(troubles):
            raise NoSharedMemoryError(next(text for text in troubles if text))
        return result  # type: ignore[return-value]
