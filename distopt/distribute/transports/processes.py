"""The common part of the transports whose replicas are processes, whatever carries their messages."""

from __future__ import annotations

import numpy as np

from distopt.distribute.agreement.communicator import Array, Communicator
from distopt.distribute.node.barrier import FlagBarrier
from distopt.distribute.node.mailbox import Mailbox
from distopt.distribute.node.node import Node
from distopt.distribute.transports.one_thread import OneThread


class ProcessCommunicator(Communicator):
    """A communicator of processes: those of a node meet in its memory, and one thread at a time uses it."""

    def __init__(self) -> None:
        self._user = OneThread(", or give each its own Strategy(MPICommunicator(comm.Dup()))")
        self._mailbox: Mailbox | None = None
        """The memory for short records; None as long as no node is known to hold the whole job."""
        self._gathered = np.empty(0, np.uint8)

    def node_barrier(self, node: Node) -> FlagBarrier:
        """Make a barrier in the node's shared memory; headers go there too where it holds the whole job."""
        barrier = FlagBarrier(node)
        if node.is_whole_job and self._mailbox is None:
            self._mailbox = Mailbox(node)
        return barrier

    def release(self) -> None:
        """Let whichever thread comes next use this communicator."""
        self._user.release()

    def _room_for_all(self, mine: Array) -> Array:
        """Return memory for everybody's records, of shape (size, n); it is the same in every call."""
        count = mine.size * self.size
        if self._gathered.size < count:
            self._gathered = np.empty(count, np.uint8)
        return self._gathered[:count].reshape(self.size, mine.size)
