"""Several replicas as threads of one process: the transport of ``distopt.simulate``.

The threads meet at a hub. A round is complete when every replica has brought its contribution; a replica that ends
(returns or raises) makes every round that still waits for it fail at once, so that nobody hangs.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from distopt.distribute.agreement.communicator import Array, Communicator, Transfer
from distopt.distribute.agreement.watchdog import Status, Watchdog
from distopt.distribute.node.node import Node
from distopt.distribute.transports.last_word import as_error, last_word
from distopt.distribute.transports.one_thread import OneThread
from distopt.errors import DeadCommunicatorError, ReplicaFailedError, ReplicaLeftError, StalledError
from distopt.process import forked
from distopt.process.trouble import describe
from distopt.process.unresponsive import Unresponsive


class _Channel:
    """One sequence of rounds; headers and payloads have one each, so that they never pair with one another."""

    def __init__(self, members: Sequence[int], *, is_for_records: bool = False) -> None:
        self.members, self.is_for_records = members, is_for_records
        self.contributions: dict[int, Any] = {}
        self.round = 0
        self.results: list[Any] = []
        self.abandoned: set[int] = set()


class Hub:
    """The meeting point of the replicas of one simulation.

    Args:
        size: number of replicas.
        nodes: the node of each that the simulation pretends; one node by default.
    """

    def __init__(self, size: int, nodes: Sequence[int] | None = None) -> None:
        self.size = size
        self.process = os.getpid()
        self.nodes = (0,) * size if nodes is None else tuple(nodes)
        self.changed = threading.Condition()
        self.left: set[int] = set()
        self.failures: list[tuple[int, BaseException]] = []
        self.late: set[int] = set()
        self.stopped: str | None = None
        self.channels: list[tuple[_Channel, _Channel]] = []
        """For headers and payloads, of each communicator and its clones."""
        self.barriers: dict[tuple[int, ...], list[_Channel]] = {}
        self.watchdogs = [Watchdog(index, _ThreadStatusChannel(self, index)) for index in range(size)]

    def exchange(self, channel: _Channel, index: int, contribution: Any, deadline: float | None = None) -> list[Any]:
        """Bring a contribution and wait for everybody's."""
        if os.getpid() != self.process:
            forked.refuse(f"simulated replica {index}")
        with self.changed:
            self._raise_if_stopped()
            watchdog = self.watchdogs[index]
            if watchdog.lost is not None:
                raise watchdog.lost
            if index in self.late:
                raise DeadCommunicatorError("this communicator can't be used any more: a deadline has passed on it")
            channel.contributions[index] = contribution
            number = channel.round
            if len(channel.contributions) == len(channel.members):
                channel.results = [channel.contributions[member] for member in channel.members]
                channel.contributions = {}
                channel.round += 1
                self.changed.notify_all()
                return channel.results
            now = time.monotonic()
            watchdog.wait_started(now)
            while channel.round == number:
                self._raise_if_stopped()
                self._raise_if_somebody_ended(channel, index)
                if index in channel.abandoned:
                    raise DeadCommunicatorError("this meeting was abandoned after a failure")
                now = time.monotonic()
                if deadline is not None and deadline <= now:
                    # What it has brought can't be taken back: its next contribution would enter this round.
                    self.late.add(index)
                    raise TimeoutError("not every simulated replica arrived before the deadline")
                wake = min(watchdog.check(now, self._awaited(channel)), math.inf if deadline is None else deadline)
                self.changed.wait(wake - now)
            watchdog.wait_ended()
            return channel.results

    def fail(self, index: int, failure: BaseException) -> None:
        """Note that a replica has failed, and wake those who wait for it."""
        with self.changed:
            self.failures.append((index, failure))
            self.changed.notify_all()

    def break_off(self, index: int, call: int, error: BaseException) -> None:
        """Note that a replica has left a call in the middle, and wake those who wait for it."""
        word = last_word(index, error)
        with self.changed:
            for watchdog in self.watchdogs:
                if watchdog.index != index:
                    watchdog.note_left(index, call, as_error(word, watchdog.index))
            self.changed.notify_all()

    def note_end(self, index: int) -> None:
        """Note that a replica's function is over, and wake those who wait for it."""
        with self.changed:
            self.left.add(index)
            self.changed.notify_all()

    def channels_of(self, number: int) -> tuple[_Channel, _Channel]:
        """Return the channels of the n-th communicator over this hub."""
        with self.changed:
            while number >= len(self.channels):
                members = range(self.size)
                self.channels.append((_Channel(members, is_for_records=True), _Channel(members)))
            return self.channels[number]

    def barrier(self, members: tuple[int, ...], number: int) -> _Channel:
        """Return the rounds of the n-th barrier of some replicas."""
        with self.changed:
            barriers = self.barriers.setdefault(members, [])
            if number == len(barriers):
                barriers.append(_Channel(members))
            return barriers[number]

    def abandon(self, channels: Sequence[_Channel], index: int) -> None:
        """Make a replica's thread that waits in one of these channels raise."""
        with self.changed:
            for channel in channels:
                channel.abandoned.add(index)
            self.changed.notify_all()

    def stop(self, reason: str) -> None:
        """Make every meeting from now on raise."""
        with self.changed:
            self.stopped = reason
            self.changed.notify_all()

    @property
    def is_over(self) -> bool:
        """Return whether every replica has ended, but for those that somebody has waited for in vain."""
        lost = {r for _, error in self.failures if isinstance(error, StalledError) for r in error.missing}
        return len(self.left | lost) == self.size

    @property
    def first_failure(self) -> tuple[int, BaseException] | None:
        """The first failure that is no consequence of another replica's."""
        causes = [entry for entry in self.failures if not isinstance(entry[1], ReplicaFailedError)]
        return next(iter([*causes, *self.failures]), None)

    def _raise_if_stopped(self) -> None:
        if self.stopped is not None:
            raise DeadCommunicatorError(f"the simulation was stopped: {self.stopped}")

    @staticmethod
    def _awaited(channel: _Channel) -> set[int]:
        """Return those who must come; nobody in a header, to which those come too that have left a call."""
        return set() if channel.is_for_records else set(channel.members) - channel.contributions.keys()

    def _raise_if_somebody_ended(self, channel: _Channel, listener: int) -> None:
        if self.first_failure is not None:
            index, failure = self.first_failure
            if isinstance(failure, ReplicaFailedError):
                raise as_error(last_word(index, failure), listener)
            raise ReplicaFailedError(f"replica {index} failed: {describe(failure)}", replica_index=index)
        awaited = self.left & (set(channel.members) - channel.contributions.keys())
        if awaited:
            names = ", ".join(map(str, sorted(awaited)))
            raise ReplicaLeftError(
                f"replica {names} of {self.size} has returned while this one still waits for it: "
                "every replica must make the same calls, the same number of times"
            )


class _Counters:
    """Counts of what one replica has made on a hub: the n-th of each belongs with the n-th of the others."""

    def __init__(self) -> None:
        self.communicators, self.barriers = itertools.count(), itertools.count()


class ThreadCommunicator(Communicator):
    """One simulated replica's end of a ``Hub``.

    Args:
        hub: the meeting point, shared by all replicas of the simulation.
        index: this replica's index.
        counters: of the communicator that it is a clone of.
    """

    name = "threads"

    def __init__(self, hub: Hub, index: int, counters: _Counters | None = None) -> None:
        self._hub = hub
        self._index = index
        self._counters = counters or _Counters()
        self._headers, self._payloads = hub.channels_of(next(self._counters.communicators))
        self._dead = False
        self._user = OneThread()

    @property
    def index(self) -> int:
        """This replica's index."""
        return self._index

    @property
    def size(self) -> int:
        """The number of simulated replicas."""
        return self._hub.size

    @property
    def nodes(self) -> tuple[int, ...]:
        """One node, unless the simulation pretends several."""
        return self._hub.nodes

    def node_barrier(self, node: Node) -> _ThreadBarrier:
        """Make a meeting of the node's replicas, which ends for all when one of the simulation fails."""
        return _ThreadBarrier(self._hub, self._hub.barrier(node.members, next(self._counters.barriers)), self._index)

    @cached_property
    def watchdog(self) -> Watchdog:
        """This replica's, that of all its communicators."""
        return self._hub.watchdogs[self._index]

    def clone(self) -> ThreadCommunicator:
        """Return a communicator over channels of its own."""
        return ThreadCommunicator(self._hub, self._index, self._counters)

    def release(self) -> None:
        """Let whichever thread comes next use this communicator."""
        self._user.release()

    def abandon(self) -> None:
        """Make the thread that waits here raise."""
        self._hub.abandon([self._headers, self._payloads], self._index)

    def all_gather(self, mine: Array, deadline: float | None = None) -> Array:
        """Give every replica everybody's record."""
        # The copy lets the caller reuse its record at once, while slower replicas still read it.
        return np.stack(self._exchange(self._headers, mine.copy(), deadline))

    def prepare(
        self, sends: Sequence[Array | None], receives: Sequence[Array | None], *, once: bool = False
    ) -> Transfer:
        """Prepare to copy from the senders' arrays."""
        return _ThreadTransfer(self._exchange_payload, self._index, sends, receives)

    def fail(self, error: BaseException) -> None:
        """Tell the other replicas."""
        self._hub.fail(self._index, error)

    def _exchange(self, channel: _Channel, contribution: Any, deadline: float | None = None) -> list[Any]:
        if self._dead:
            raise DeadCommunicatorError("this communicator can't be used any more: a deadline has passed")
        if self._user.identifier != threading.get_ident():
            self._user.hand_over()
        try:
            return self._hub.exchange(channel, self._index, contribution, deadline)
        except TimeoutError:
            self._dead = True  # what was contributed can't be taken back
            raise

    def _exchange_payload(self, contribution: Any) -> list[Any]:
        return self._exchange(self._payloads, contribution)


class _ThreadStatusChannel:
    """Answers of replicas in the same process: everybody can see everybody."""

    def __init__(self, hub: Hub, index: int) -> None:
        self._hub, self._index, self.neighbours = hub, index, ()

    def ask(self, seconds: float) -> list[Status | None]:
        return [watchdog.status() for watchdog in self._hub.watchdogs]

    def explain_silence(self, replica: int) -> Unresponsive:
        raise AssertionError("threads of one process are never silent")

    def announce_left(self, call: int, error: BaseException) -> None:
        self._hub.break_off(self._index, call, error)


class _ThreadTransfer:
    def __init__(
        self,
        exchange: Callable[[Any], list[Any]],
        index: int,
        sends: Sequence[Array | None],
        receives: Sequence[Array | None],
    ) -> None:
        self._exchange, self._index, self._sends, self._receives = exchange, index, sends, receives

    def __call__(self) -> None:
        offers = self._exchange(self._sends)
        for source, target in enumerate(self._receives):
            if target is not None:
                np.copyto(target, offers[source][self._index])
        self._exchange(None)  # the senders may write again after this


class _ThreadBarrier:
    def __init__(self, hub: Hub, rounds: _Channel, index: int) -> None:
        self._hub, self._rounds, self._index = hub, rounds, index

    def __call__(self) -> None:
        self._hub.exchange(self._rounds, self._index, None)

    def abandon(self) -> None:
        self._hub.abandon([self._rounds], self._index)
