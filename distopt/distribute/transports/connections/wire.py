"""Messages on the connections of a communicator, many at once, in the calling thread.

Every message begins with what it is and how long: a replica that sends something else than what is awaited here has
left the common order of calls, and is not taken for one that has not.
"""

from __future__ import annotations

import enum
import select
import socket
import struct
import time
from collections.abc import Mapping
from typing import Protocol

from distopt.distribute.agreement.communicator import does_something_else
from distopt.distribute.agreement.watchdog import Watchdog
from distopt.errors import DeadCommunicatorError, ReplicaFailedError, ReplicaLostError

_HEAD = struct.Struct("<QQ")
_POLL_SECONDS = 0.05
_REASON_SECONDS = 1.0
"""Seconds that the status channel has to say why a connection was closed, or why something else was sent."""

_ERRORS = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Message(enum.IntEnum):
    """The kinds of messages."""

    RECORD = 1
    PAYLOAD = 2


class Wire:
    """The connections of one communicator.

    Args:
        sockets: by replica.
        watchdog: what this replica does.
    """

    def __init__(self, sockets: Mapping[int, socket.socket], watchdog: Watchdog) -> None:
        self._sockets, self._watchdog = sockets, watchdog
        self.dead: str | None = None
        """The reason why the wire can't be used any more; may be set by another thread."""

    def exchange(
        self,
        kind: Message,
        sends: Mapping[int, memoryview],
        receives: Mapping[int, memoryview],
        deadline: float | None = None,
    ) -> None:
        """Send and receive messages, each from and into the bytes of a contiguous array.

        Raises:
            TimeoutError: the deadline passed.
            ReplicaLostError: a replica is gone.
            ReplicaFailedError: a replica sends something else.
        """
        going = {self._sockets[r].fileno(): _Going(self._sockets[r], r, kind, view) for r, view in sends.items()}
        coming = {self._sockets[r].fileno(): _Coming(self._sockets[r], r, kind, v) for r, v in receives.items()}
        self._finish(kind, {**going}, {**coming}, deadline)

    def check(self) -> None:
        """Raise DeadCommunicatorError if it can't be used any more."""
        if self.dead is not None:
            raise DeadCommunicatorError(f"this communicator can't be used any more: {self.dead}")

    def _finish(self, kind: Message, going: dict[int, _Task], coming: dict[int, _Task], deadline: float | None) -> None:
        self._advance(going, going)
        self._advance(coming, coming)
        if not going and not coming:
            return
        watchdog = self._watchdog
        watchdog.wait_started(time.monotonic())
        while going or coming:
            ready = _poll(going, coming)
            self._advance(going, ready & going.keys())
            self._advance(coming, ready & coming.keys())
            now = time.monotonic()
            self.check()
            if (going or coming) and deadline is not None and now > deadline:
                raise TimeoutError("not every replica arrived before the deadline")
            if not ready:
                awaited = (
                    () if kind is Message.RECORD else {task.replica for task in [*going.values(), *coming.values()]}
                )
                watchdog.check(now, awaited)
        watchdog.wait_ended()

    def _advance(self, tasks: dict[int, _Task], ready: Mapping[int, _Task] | set[int]) -> None:
        for number in list(ready):
            task = tasks[number]
            try:
                if task.advance():
                    del tasks[number]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._why(task.replica, gone(task.replica, str(error))) from error
            except ReplicaFailedError as error:
                raise self._why(task.replica, error) from None

    def _why(self, replica: int, error: Exception) -> Exception:
        """Return what the replica itself said on the status channel, if anything; else what was seen of it here."""
        watchdog, end = self._watchdog, time.monotonic() + _REASON_SECONDS
        while (said := watchdog.lost or watchdog.why_left(replica)) is None and time.monotonic() < end:
            time.sleep(0.01)
        watchdog.lost = said or error
        return watchdog.lost


def gone(replica: int, how: str) -> ReplicaLostError:
    """Return the error that says that a replica is no longer there."""
    return ReplicaLostError(
        f"replica {replica} is gone ({how}): its process has ended or was killed, or its node is down. Start again "
        "from the last checkpoint (a trainer with FailureConfig(max_failures=...) does), or make a new group of those "
        "that are left"
    )


class _Task(Protocol):
    replica: int

    def advance(self) -> bool:
        """Do what can be done without waiting; return whether it is finished."""


class _Going:
    def __init__(self, connection: socket.socket, replica: int, kind: Message, view: memoryview) -> None:
        self.replica, self._connection = replica, connection
        self._left = [memoryview(_HEAD.pack(kind, view.nbytes)), view]

    def advance(self) -> bool:
        while self._left:
            sent = self._connection.sendmsg(self._left)
            while self._left and sent >= self._left[0].nbytes:
                sent -= self._left.pop(0).nbytes
            if self._left:
                self._left[0] = self._left[0][sent:]
        return True


class _Coming:
    def __init__(self, connection: socket.socket, replica: int, kind: Message, view: memoryview) -> None:
        self.replica, self._connection, self._kind, self._view = replica, connection, kind, view
        self._head = bytearray(_HEAD.size)
        self._missing = memoryview(self._head)
        self._has_head = False

    def advance(self) -> bool:
        while True:
            while self._missing:
                count = self._connection.recv_into(self._missing)
                if not count:
                    raise ConnectionResetError("it closed its connection")
                self._missing = self._missing[count:]
            if self._has_head:
                return True
            self._check(*_HEAD.unpack(self._head))
            self._has_head, self._missing = True, self._view

    def _check(self, kind: int, nbytes: int) -> None:
        sent, awaited = (Message(kind), nbytes), (self._kind, self._view.nbytes)
        if sent != awaited:
            raise does_something_else(self.replica, _in_words(*sent), _in_words(*awaited))


def _in_words(kind: Message, nbytes: int) -> str:
    return f"{nbytes} bytes ({kind.name.lower()})"


def _poll(going: Mapping[int, _Task], coming: Mapping[int, _Task]) -> set[int]:
    """Wait until something can be done for one of the tasks, but not for long; return their sockets."""
    poll = select.poll()
    for number in going.keys() | coming.keys():
        poll.register(number, (number in going) * select.POLLOUT | (number in coming) * select.POLLIN)
    return {number for number, _ in poll.poll(_POLL_SECONDS * 1e3)}
