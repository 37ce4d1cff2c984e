"""The plan for the lists of variables in one slab among one group of replicas; it goes with either of them."""

from __future__ import annotations

from collections.abc import Callable

from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import as_bytes, digest
from distopt.engine.streaming.buckets import BucketSums
from distopt.engine.sweep.node_memory import NodeMemory
from distopt.engine.sweep.whole import Reductions
from distopt.slabs.listing import Listing
from distopt.slabs.slab import Slab

_DIGESTS = 256
"""Digests of calls over so many lists are kept."""


class Plan:
    """The agreement of some replicas on variables, and how they sum their gradients.

    Args:
        slab: the gradients of the variables.
        communicator: the replicas.
    """

    def __init__(self, slab: Slab, communicator: Communicator) -> None:
        self.slab, self.communicator = slab, communicator
        self.is_agreed = False
        """True where the replicas have agreed on the variables, and have begun from the same values."""
        self.memory: NodeMemory | None = None
        """The memory in which replicas of a node read each other's gradients; None where they share none."""
        self.reductions = Reductions(communicator)
        self._stream: BucketSums | None = None
        self._has_stream = False
        self.digests: dict[Listing, int] = {}
        """Digests of calls over lists that need not be described again."""

    def note_agreement(self, memory: NodeMemory | None) -> None:
        """Note that the replicas have agreed."""
        self.memory, self.is_agreed = memory, True

    def call_digest(self, listing: Listing, optimizer_description: Callable[[], str]) -> int:
        """Return the digest of a call, whose header need not describe it every time.

        Args:
            listing: the list that is stepped, in this slab.
            optimizer_description: returns the optimizer as all replicas know it.
        """
        if listing in self.digests:
            return self.digests[listing]
        fresh = digest(as_bytes(f"{optimizer_description()}|{listing.description}"))
        if self.is_agreed:
            if len(self.digests) > _DIGESTS:
                self.digests.clear()
            self.digests[listing] = fresh
        return fresh

    def forget_digests(self) -> None:
        """Describe calls again: the optimizer's options have changed."""
        self.digests.clear()

    def stream(self, make: Callable[[NodeMemory], BucketSums | None]) -> BucketSums | None:
        """Return the communication thread, made at the first streamed step; None where there is none."""
        if not self._has_stream and self.memory is not None:
            self._stream, self._has_stream = make(self.memory), True
        return self._stream

    @property
    def stream_in_use(self) -> BucketSums | None:
        """The communication thread, where one has been made."""
        return self._stream

    def end_stream(self) -> None:
        """End the communication thread, if there is one; the next streamed step makes another."""
        stream, self._stream, self._has_stream = self._stream, None, False
        if stream is not None:
            stream.end()
