"""The replicas of an MPI job. Here, and only here, a replica index is a rank.

Waiting is a non-blocking operation, tested in a loop that yields the core: so every wait has an end, and replicas
that outnumber the cores do not starve each other.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Self, TypeAlias

import numpy as np

from distopt.distribute.agreement.communicator import Array, Copies, Transfer
from distopt.distribute.agreement.open_communicators import note_opened
from distopt.distribute.agreement.watchdog import StatusChannel, Watchdog
from distopt.distribute.node.mailbox import RECORD_BYTES
from distopt.distribute.transports.mpi_library import load_mpi, refuse_intercommunicator
from distopt.distribute.transports.mpi_status_channel import MPIStatusChannel, watchdog_of
from distopt.distribute.transports.processes import ProcessCommunicator
from distopt.errors import (
    DeadCommunicatorError,
    InvalidArgumentError,
)
from distopt.process import forked
from distopt.process.exiting import is_exiting

MESSAGE_BYTES = 1 << 30
"""Longer arrays travel in several messages: counts above 2^31 are not safe in every MPI."""

_unfinished: list[Any] = []
"""Requests that were given up, with their buffers: MPI may still write there."""

_yield_core = os.sched_yield

_Message: TypeAlias = tuple[Callable[..., Any], Array, int]
"""A function that makes a request, a part of an array, and the rank that it goes to or comes from."""


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
        self._own: Any = None
        self._nodes = tuple(nodes)
        self._dead: str | None = None

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
    def watchdog(self) -> Watchdog:
        """Return the watchdog of this replica: one for all communicators over the same one of the user's."""
        return watchdog_of(load_mpi(), self.comm)

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
        self._own = own

    def status_channel(self) -> StatusChannel | None:
        """Return a channel on a duplicate of its own; None where it can have no thread on some replica (collective)."""
        mpi = load_mpi()
        if mpi.Query_thread() < mpi.THREAD_MULTIPLE:
            return None
        watchdog = self.watchdog
        if watchdog.status_channel is None:
            comm = self.duplicate()
            if not any(comm.allgather(is_exiting())):
                watchdog.status_channel = channel = MPIStatusChannel(mpi, comm, self.nodes, watchdog)
                channel.stop_before_mpi()
        return watchdog.status_channel

    def fail(self, error: BaseException) -> None:
        """Tell the other replicas, on the status channel; where there is none, they are told in headers only."""
        is_usable = self._own is not None and not forked.in_child and not load_mpi().Is_finalized()
        if is_usable and isinstance(self.watchdog.status_channel, MPIStatusChannel):
            self.watchdog.status_channel.end(error)

    def abandon(self) -> None:
        """Make the thread that waits here, and every later call, raise DeadCommunicatorError."""
        self._dead = self._dead or "it was abandoned after a failure"

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

    def prepare(
        self, sends: Sequence[Array | None], receives: Sequence[Array | None], *, once: bool = False
    ) -> Transfer:
        """Prepare to exchange arrays, pair by pair; what is called again and again has persistent requests."""
        own, me, size = self._open(), self.index, self.size
        receive, send = (own.Irecv, own.Isend) if once else (own.Recv_init, own.Send_init)
        messages: list[_Message] = []
        # Each rank begins with another partner, so that they do not all queue at the same one.
        for k in range(1, size):
            source, target = (me - k) % size, (me + k) % size
            incoming, outgoing = receives[source], sends[target]
            if incoming is not None:
                messages.extend((receive, part, source) for part in _messages(incoming))
            if outgoing is not None:
                messages.extend((send, part, target) for part in _messages(outgoing))
        to_self = Copies([(sends[me], receives[me])])
        return self._immediate(messages, to_self) if once else self._persistent(messages, to_self)

    def _immediate(self, messages: Sequence[_Message], to_self: Copies) -> Transfer:
        """Return a transfer for one call: its requests are made when it is called."""
        peers = [(peer,) for _, _, peer in messages]

        def transfer() -> None:
            self._open()
            requests = [start(part, peer) for start, part, peer in messages]
            to_self()
            self._wait(requests, peers)

        return transfer

    def _persistent(self, messages: Sequence[_Message], to_self: Copies) -> Transfer:
        """Return a transfer for many calls: its requests are made once."""
        requests, start_all = [make(part, peer) for make, part, peer in messages], load_mpi().Prequest.Startall
        peers = [(peer,) for _, _, peer in messages]

        def transfer() -> None:
            self._open()
            if requests:
                start_all(requests)
            to_self()
            self._wait(requests, peers)

        return transfer

    def duplicate(self) -> Any:
        """Return a fresh duplicate of the user's communicator, for another library's collectives (collective)."""
        self._open()
        return self.comm.Dup()

    def _open(self) -> Any:
        if forked.in_child:
            forked.refuse(f"replica {self.index}")
        if self._dead is not None:
            raise DeadCommunicatorError(f"this communicator can't be used any more: {self._dead}")
        if self._user.identifier != threading.get_ident():
            self._user.hand_over()
        if self.watchdog.lost is not None:
            raise self.watchdog.lost
        if self._own is None:
            own, request = self.comm.Idup()
            self._wait([request])
            self._own = own
            note_opened(self)
        return self._own

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
                    if self._dead is not None:
                        raise DeadCommunicatorError(self._dead)
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
        self._dead = self._dead or f"it was interrupted in an operation ({type(error).__name__}: {error})"


def _messages(array: Array) -> list[Array]:
    flat = array.view(np.uint8)
    if flat.size <= MESSAGE_BYTES:
        return [flat]
    return [flat[start : start + MESSAGE_BYTES] for start in range(0, flat.size, MESSAGE_BYTES)]
