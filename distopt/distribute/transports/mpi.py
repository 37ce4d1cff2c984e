"""The replicas of an MPI job. Here, and only here, a replica index is a rank.

Waiting is a non-blocking operation, tested in a loop that yields the core: so every wait has an end, and replicas
that outnumber the cores do not starve each other.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np

from distopt.distribute.agreement.communicator import Array, Copies, Transfer
from distopt.distribute.agreement.watchdog import StatusChannel, Watchdog
from distopt.distribute.node.barrier import FlagBarrier
from distopt.distribute.node.mailbox import RECORD_BYTES
from distopt.distribute.node.node import Node
from distopt.distribute.transports.mpi_library import load_mpi, refuse_intercommunicator
from distopt.distribute.transports.mpi_links import Link, Over, dropped_among, free_dropped, links_over
from distopt.distribute.transports.mpi_messages import Message, in_messages
from distopt.distribute.transports.mpi_status_channel import MPIStatusChannel
from distopt.distribute.transports.processes import ProcessCommunicator
from distopt.errors import (
    DeadCommunicatorError,
    InvalidArgumentError,
)
from distopt.process import forked
from distopt.process.exiting import is_exiting

_unfinished: list[Any] = []
"""Requests that were given up, with their buffers: MPI may still write there."""

_yield_core = os.sched_yield


class MPICommunicator(ProcessCommunicator):
    """The replicas of an MPI communicator.

    Args:
        comm: an mpi4py intracommunicator; None means all processes of the job. It is duplicated at the first
            collective (which all its replicas reach together), so that the user's own messages can't interfere.
        nodes: the node that every replica pretends to be on; by default it is where it is.

    One thread at a time uses it: another one may go on with it when the first has ended.

    Raises:
        InvalidArgumentError: ``comm`` is ``MPI.COMM_NULL``: this process does not belong to it; or an
            intercommunicator.

    Example:
        >>> MPICommunicator().name
        'mpi'
    """

    name = "mpi"

    def __init__(self, comm: Any = None, nodes: Sequence[int] = ()) -> None:
        if comm is not None and not comm:
            raise InvalidArgumentError(
                "MPICommunicator(MPI.COMM_NULL): this process is no member of that communicator (Split gives "
                "COMM_NULL for the colour MPI.UNDEFINED). Make the Strategy on the members only: if comm: ..."
            )
        if comm is not None:
            refuse_intercommunicator(comm, "MPICommunicator")
        super().__init__()
        self._given = comm
        self.link = Link()
        """The duplicate that it sends on."""
        self._nodes = tuple(nodes)

    @cached_property
    def comm(self) -> Any:
        """The user's mpi4py communicator."""
        return load_mpi().COMM_WORLD if self._given is None else self._given

    @cached_property
    def index(self) -> int:
        """This replica's rank."""
        return int(self.comm.rank)

    @cached_property
    def size(self) -> int:
        """The number of ranks."""
        return int(self.comm.size)

    @cached_property
    def number(self) -> int:
        """Its number among those over the user's communicator: that of the next one, until it is open."""
        return self._over.opened if self.link.number is None else self.link.number

    def say_ended(self) -> None:
        """Tell the other replicas that this one opens no communicator over the user's any more."""
        self._over.announce_end()

    @cached_property
    def watchdog(self) -> Watchdog:
        """Return the watchdog of this replica: one for all communicators over the same one of the user's."""
        return self._over.watchdog

    @cached_property
    def _over(self) -> Over:
        return links_over(load_mpi(), self.comm)

    @property
    def nodes(self) -> tuple[int, ...]:
        """Every rank's node; the first call compares host names and is collective."""
        if not self._nodes:
            mine = np.zeros(256, np.uint8)
            name = load_mpi().Get_processor_name().encode()[:256]
            mine[: len(name)] = np.frombuffer(name, np.uint8)
            hosts = [row.tobytes() for row in self.all_gather(mine)]
            names = list(dict.fromkeys(hosts))
            self._nodes = tuple(names.index(host) for host in hosts)
        return self._nodes

    def clone(self) -> Self:
        """Return a communicator over a duplicate, which the ending leaves alone: its thread may be anywhere."""
        other = type(self)(self.comm, self.nodes)
        other.use(self.duplicate())
        return other

    def use(self, own: Any) -> None:
        """Send on a duplicate that somebody else has made, and knows the end of."""
        self.link.comm = own

    def status_channel(self) -> StatusChannel | None:
        """Return a channel on a duplicate of its own; None where it can have no thread on some replica (collective)."""
        mpi = load_mpi()
        if mpi.Query_thread() < mpi.THREAD_MULTIPLE:
            return None
        watchdog = self.watchdog
        if watchdog.status_channel is None:
            self._open()
            comm = self.comm.Dup()
            if any(comm.allgather(is_exiting())):
                comm.Free()
            else:
                watchdog.status_channel = MPIStatusChannel(mpi, comm, self.nodes, watchdog)
        return watchdog.status_channel

    def fail(self, error: BaseException) -> None:
        """Tell the other replicas, on the status channel; where there is none, they are told in headers only."""
        is_usable = self.link.comm is not None and not forked.in_child and not load_mpi().Is_finalized()
        if is_usable and isinstance(self.watchdog.status_channel, MPIStatusChannel):
            self.watchdog.status_channel.end(error)

    def abandon(self) -> None:
        """Make the thread that waits here, and every later call, raise DeadCommunicatorError."""
        self.link.dead = self.link.dead or "it was abandoned after a failure"

    def dropped(self) -> list[str]:
        """Return the names of duplicates among the same processes that nobody here uses any more."""
        return dropped_among(self.link.members)

    def note_first_agreement(self, name: str, dropped: Collection[str]) -> None:
        """Take over a name for the duplicate, and free those that no replica uses any more."""
        self.link.note_name(name)
        free_dropped(dropped)

    def close(self) -> None:
        """Give back all duplicates and requests."""
        self.link.close()
        self._mailbox = None

    def all_gather(self, mine: Array, deadline: float | None = None) -> Array:
        """Give every rank everybody's record."""
        own = self._open()
        if self._mailbox is not None and mine.size <= RECORD_BYTES:
            try:
                return self._mailbox.gather(mine, deadline)
            except BaseException as error:
                self._note_interruption(error)
                raise
        out = self._room_for_all(mine)
        self._wait([own.Iallgather(mine, out)], deadline=deadline)
        return out

    def gathering(self, mine: Array, deadline: float | None = None) -> Iterator[Array | None]:
        """Give every rank everybody's record; None as long as one is missing."""
        if self.link.comm is None:
            own, request = self.comm.Idup()
            while not request.Test():
                yield None
            self._note_opened(own)
        own = self._open()
        if self._mailbox is not None and mine.size <= RECORD_BYTES:
            yield from self._mailbox.gathering(mine)
            return
        rows = np.empty((self.size, mine.size), np.uint8)
        request = own.Iallgather(mine, rows)
        _unfinished.append((request, mine, rows))
        while not request.Test():
            yield None
        yield rows

    def prepare(
        self, sends: Sequence[Array | None], receives: Sequence[Array | None], *, once: bool = False
    ) -> Transfer:
        """Prepare to exchange arrays, pair by pair; what is called again and again has persistent requests."""
        own, me = self._open(), self.index
        receive, send = (own.Irecv, own.Isend) if once else (own.Recv_init, own.Send_init)
        messages = in_messages((receive, receives), (send, sends), me)
        to_self = Copies([(sends[me], receives[me])])
        return self._immediate(messages, to_self) if once else self._persistent(messages, to_self)

    def _immediate(self, messages: Sequence[Message], to_self: Copies) -> Transfer:
        """Return a transfer for one call: its requests are made when it is called."""
        peers = [(peer,) for _, _, peer in messages]

        def transfer() -> None:
            self._open()
            requests = [start(part, peer) for start, part, peer in messages]
            to_self()
            self._wait(requests, peers)

        return transfer

    def _persistent(self, messages: Sequence[Message], to_self: Copies) -> Transfer:
        """Return a transfer for many calls: its requests are made once."""
        requests, start_all = [make(part, peer) for make, part, peer in messages], load_mpi().Prequest.Startall
        peers = [(peer,) for _, _, peer in messages]

        def transfer() -> None:
            self._open()
            if requests:
                start_all(requests)
            to_self()
            self._wait(requests, peers)

        self.link.keep_for(transfer, requests)
        return transfer

    def duplicate(self) -> Any:
        """Return a fresh duplicate of the user's communicator, for another library's collectives (collective)."""
        self._open()
        duplicate = self.comm.Dup()
        self.link.duplicates.append(duplicate)
        return duplicate

    def node_barrier(self, node: Node) -> FlagBarrier:
        """Make a barrier in the node's shared memory; headers go there too where it holds the whole job."""
        barrier = super().node_barrier(node)
        self.link.mailbox = self._mailbox
        return barrier

    def _open(self) -> Any:
        if forked.in_child:
            forked.refuse(f"replica {self.index}")
        if self.link.dead is not None:
            raise DeadCommunicatorError(f"this communicator can't be used any more: {self.link.dead}")
        if self._user.identifier != threading.get_ident():
            self._user.hand_over()
        if self.watchdog.lost is not None:
            raise self.watchdog.lost
        if self.link.comm is None:
            own, request = self.comm.Idup()
            self._wait([request], [tuple(range(self.size))])
            self._note_opened(own)
        return self.link.comm

    def _note_opened(self, own: Any) -> None:
        cls, nodes = type(self), self._nodes
        self.number = self.link.open(own, self._over, self, lambda link: cls(link.comm, nodes).go_on(link))

    def go_on(self, link: Link) -> Self:
        """Use a link that another communicator has opened, and whose user is gone."""
        assert link.over is not None
        self.link, self._mailbox, self._over = link, link.mailbox, link.over
        return self

    def _wait(
        self, requests: list[Any], peers: Sequence[tuple[int, ...]] = ((),), *, deadline: float | None = None
    ) -> None:
        """Wait for requests, each with its peer; for a record of everybody's without."""
        watchdog, next_check = self.watchdog, 0.0
        try:
            # One by one: a test of any moves all of them on, and costs less than one of the whole list.
            for request, awaited in zip(requests, peers, strict=True):
                test = request.Test
                while not test():
                    _yield_core()
                    if self.link.dead is not None:
                        raise DeadCommunicatorError(self.link.dead)
                    if watchdog.lost is not None:
                        raise watchdog.lost
                    now = time.monotonic()
                    if deadline is not None and now > deadline:
                        raise TimeoutError("not every replica arrived before the deadline")
                    if not next_check:
                        watchdog.wait_started(now)
                    next_check = next_check if next_check > now else watchdog.check(now, awaited)
            if next_check:
                watchdog.wait_ended()
        except BaseException as error:
            self._note_interruption(error)
            _unfinished.extend(requests)
            raise

    def _note_interruption(self, error: BaseException) -> None:
        # Half-done operations can't be taken back: whatever came next would pair with the wrong message.
        self.link.dead = self.link.dead or f"it was interrupted in an operation ({type(error).__name__}: {error})"
