"""Replicas that Ray has started: processes on any nodes, connected among themselves. Ray itself is not needed here.

On a node that holds the whole job everything goes through its shared memory; the connections are for what
crosses nodes, and tell at once of a replica that has died.

Rejected: Ray's object transfer: 1.8 ms for 4 KB there and back, which is longer than a whole step.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from distopt.distribute.agreement.communicator import Array, Copies, Transfer
from distopt.distribute.agreement.watchdog import Watchdog
from distopt.distribute.node.mailbox import RECORD_BYTES
from distopt.distribute.node.node import Node
from distopt.distribute.node.staging import Exchange, Staging
from distopt.distribute.transports.connections.peers import Peers
from distopt.distribute.transports.connections.wire import Message, Wire
from distopt.distribute.transports.processes import ProcessCommunicator
from distopt.distribute.transports.sockets_status_channel import RayStatusChannel
from distopt.errors import NoSharedMemoryError
from distopt.process import forked


class RayCommunicator(ProcessCommunicator):
    """The replicas of a group that ``distopt.ray`` has formed.

    Args:
        peers: how they connect. All replicas make their communicators over it together, in the same order.
        nodes: the node that every replica pretends to be on; by default it is where it is.
        watchdog: what this replica does, where another communicator knows it already.

    One thread at a time uses it: another one may go on with it when the first has ended.
    """

    name = "ray"

    def __init__(self, peers: Peers, nodes: Sequence[int] | None = None, watchdog: Watchdog | None = None) -> None:
        super().__init__()
        self.peers = peers
        if nodes is not None:
            self.nodes = tuple(nodes)
        self.watchdog = Watchdog(peers.index) if watchdog is None else watchdog
        self._wire = Wire(peers.connect(next(peers.purposes)), self.watchdog)
        self._exchange: Exchange | None = None
        if self.size > 1 and len(set(self.nodes)) == 1:
            with contextlib.suppress(NoSharedMemoryError):
                node = Node(self)
                self._exchange, self.staging = Exchange(node), Staging(node, self._operation)
            self.release()  # who trains may be another thread than who has formed the group

    @property
    def index(self) -> int:
        """This replica's index."""
        return self.peers.index

    @property
    def size(self) -> int:
        """The number of replicas in the group."""
        return len(self.peers.members)

    @cached_property
    def nodes(self) -> tuple[int, ...]:
        """Every replica's Ray node."""
        names = [member.node for member in self.peers.members]
        distinct = list(dict.fromkeys(names))
        return tuple(distinct.index(name) for name in names)

    def clone(self) -> RayCommunicator:
        """Return a communicator over connections of its own."""
        return RayCommunicator(self.peers, self.nodes, self.watchdog)

    def status_channel(self) -> RayStatusChannel:
        """Return the status channel of all communicators of the group."""
        if not isinstance(self.watchdog.status_channel, RayStatusChannel):
            self.watchdog.status_channel = RayStatusChannel(
                self.peers, next(self.peers.purposes), self.nodes, self.watchdog
            )
        return self.watchdog.status_channel

    def fail(self, error: BaseException) -> None:
        """Tell the other replicas on the status channel; without one they see how its connections end."""
        if isinstance(self.watchdog.status_channel, RayStatusChannel):
            self.watchdog.status_channel.end(error)

    def announce_end(self) -> None:
        """Tell the other replicas, which have all said goodbye, that the end of this one is no death."""
        if isinstance(self.watchdog.status_channel, RayStatusChannel):
            self.watchdog.status_channel.end(None)

    def abandon(self) -> None:
        """Make the thread that waits here, and every later call, raise DeadCommunicatorError."""
        self._wire.dead = self._wire.dead or "it was abandoned after a failure"
        for each in (self._mailbox, self.staging):
            if each is not None:
                each.abandon()

    def all_gather(self, mine: Array, deadline: float | None = None) -> Array:
        """Give every replica everybody's record."""
        with self._operation():
            if self._mailbox is not None and mine.size <= RECORD_BYTES:
                return self._mailbox.gather(mine, deadline)
            return self._gather_by_wire(mine, deadline)

    def _gather_by_wire(self, mine: Array, deadline: float | None) -> Array:
        rows = self._room_for_all(mine)
        rows[self.index] = mine
        others = [r for r in range(self.size) if r != self.index]
        self._wire.exchange(
            Message.RECORD, dict.fromkeys(others, _bytes_of(mine).data), {r: rows[r].data for r in others}, deadline
        )
        return rows

    def prepare(
        self, sends: Sequence[Array | None], receives: Sequence[Array | None], *, once: bool = False
    ) -> Transfer:
        """Prepare to exchange arrays, pair by pair."""
        me = self.index
        to_self = Copies([(sends[me], receives[me])])
        going = {r: _bytes_of(array) for r, array in enumerate(sends) if array is not None and r != me}
        coming = {r: _bytes_of(array) for r, array in enumerate(receives) if array is not None and r != me}
        if self._exchange is not None:
            move = functools.partial(self._exchange, going, coming)
        else:
            sent, received = ({r: array.data for r, array in arrays.items()} for arrays in (going, coming))
            move = functools.partial(self._wire.exchange, Message.PAYLOAD, sent, received)

        def transfer() -> None:
            with self._operation():
                to_self()
                move()

        return transfer

    @contextlib.contextmanager
    def _operation(self) -> Iterator[None]:
        """Surround all that the replicas do together; where it fails, nothing more can be done together."""
        self._check_user()
        self._wire.check()
        if self.watchdog.lost is not None:
            raise self.watchdog.lost
        try:
            yield
        except BaseException as error:
            # Half-sent messages can't be taken back: whatever came next would pair with the wrong one.
            self._wire.dead = self._wire.dead or f"it was interrupted in an operation ({type(error).__name__}: {error})"
            raise

    def _check_user(self) -> None:
        if forked.in_child:
            forked.refuse(f"replica {self.index}")
        if self._user.identifier != threading.get_ident():
            self._user.hand_over()


def _bytes_of(array: Array) -> Array:
    return array.view(np.uint8).reshape(-1)
