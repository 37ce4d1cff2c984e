"""The proofs by which two connected replicas show each other that they know the group's secret, before anything else.

The caller says who it is; the other end answers with a proof; the caller proves itself too. A proof is an HMAC-SHA256
over what both ends have drawn. Anybody may call: all callers are served at once, and each has one deadline for all that
it has to say, so that strangers keep nobody waiting.
"""

from __future__ import annotations

import hmac
import os
import select
import socket
import struct
import time
from contextlib import suppress

SECRET_BYTES = 32

MOST_CALLERS = 128
"""Callers that are served at once: one more, and the one that has taken longest is turned away."""

_CALLER_SECONDS = 10.0
_MAGIC = b"distopt1"
_HELLO = struct.Struct(f"<{len(_MAGIC)}sII{SECRET_BYTES}s")
_PROOF_BYTES = 32


class Door:
    """The end that is called: it tells who knows the secret, and turns away who does not.

    Args:
        listener: where callers come.
        secret: what all replicas of the group know, and nobody else.
    """

    def __init__(self, listener: socket.socket, secret: bytes) -> None:
        self._listener, self._secret = listener, secret
        self._callers: dict[int, _Caller] = {}  # by file descriptor, in the order in which they came

    def admit(self, deadline: float) -> tuple[int, int, socket.socket]:
        """Wait for the next caller that knows the secret; return its purpose, its index, and the connection to it.

        Raises:
            TimeoutError: nobody came before the deadline.
        """
        self._listener.setblocking(False)
        for caller in self._callers.values():  # nobody has listened to them since the last call
            caller.begin()
        while (now := time.monotonic()) < deadline:
            for late in [caller for caller in self._callers.values() if caller.deadline <= now]:
                self._turn_away(late)
            for number in self._ready(min([deadline, *(caller.deadline for caller in self._callers.values())]) - now):
                if number == self._listener.fileno():
                    self._open()
                elif (known := self._hear(number)) is not None:
                    return known
        raise TimeoutError

    def close(self) -> None:
        """Stop listening, and close the connections to those who have not proved themselves."""
        self._listener.close()
        for caller in self._callers.values():
            caller.connection.close()

    def _ready(self, seconds: float) -> list[int]:
        poll = select.poll()
        for number in [self._listener.fileno(), *self._callers]:
            poll.register(number, select.POLLIN)
        return [number for number, _ in poll.poll(seconds * 1e3 + 1)]

    def _open(self) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):  # it has given up already
            connection, _ = self._listener.accept()
            if len(self._callers) == MOST_CALLERS:
                self._turn_away(next(iter(self._callers.values())))
            self._callers[connection.fileno()] = _Caller(connection)

    def _hear(self, number: int) -> tuple[int, int, socket.socket] | None:
        caller = self._callers.get(number)
        if caller is None:  # turned away meanwhile
            return None
        try:
            known = caller.hear(self._secret)
        except OSError:  # a stranger, or one that has given up
            self._turn_away(caller)
            return None
        if known is None:
            return None
        del self._callers[number]
        return *known, caller.connection

    def _turn_away(self, caller: _Caller) -> None:
        del self._callers[caller.connection.fileno()]
        caller.connection.close()


class _Caller:
    """One that has called and has not proved yet that it knows the secret."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self._drawn = os.urandom(SECRET_BYTES)
        self._said, self._awaited = b"", _HELLO.size
        self.begin()

    def begin(self) -> None:
        """Begin to count the time that it has."""
        self.deadline = time.monotonic() + _CALLER_SECONDS

    def hear(self, secret: bytes) -> tuple[int, int] | None:
        """Read what has come, and answer; return the caller's purpose and index once it has proved itself.

        Raises:
            OSError: it is a stranger, or has gone.
        """
        part = self.connection.recv(self._awaited - len(self._said))
        if not part:
            raise ConnectionError("the connection was closed")
        self._said += part
        if len(self._said) < self._awaited:
            return None
        hello, proof = self._said[: _HELLO.size], self._said[_HELLO.size :]
        magic, purpose, index, _ = _HELLO.unpack(hello)
        if not proof:
            if magic != _MAGIC:
                raise ConnectionError("it is no replica")
            self.connection.sendall(self._drawn + _proof(secret, b"answer", hello, self._drawn))
            self._awaited += _PROOF_BYTES
            return None
        if not hmac.compare_digest(proof, _proof(secret, b"caller", hello, self._drawn)):
            raise ConnectionError("it does not know the secret")
        return purpose, index


def introduce(connection: socket.socket, secret: bytes, purpose: int, index: int, deadline: float) -> None:
    """Prove to the replica at the other end that this one knows the secret, after it has proved it.

    Args:
        connection: to that replica.
        secret: what both know.
        purpose: the number of what the connection is for.
        index: this replica's.
        deadline: when all of it must have happened.

    Raises:
        OSError: the other end does not know the secret, has gone, or has not answered before the deadline.
    """
    hello = _HELLO.pack(_MAGIC, purpose, index, os.urandom(SECRET_BYTES))
    connection.sendall(hello)
    answer = _read(connection, SECRET_BYTES + _PROOF_BYTES, deadline)
    drawn, proof = answer[:SECRET_BYTES], answer[SECRET_BYTES:]
    if not hmac.compare_digest(proof, _proof(secret, b"answer", hello, drawn)):
        raise ConnectionError("it does not know the secret of this group")
    connection.sendall(_proof(secret, b"caller", hello, drawn))


def left(deadline: float) -> float:
    """Return the seconds that are left until a deadline, as a timeout of a socket.

    Example:
        >>> left(time.monotonic() - 1)
        0.001
    """
    return max(deadline - time.monotonic(), 1e-3)


def _proof(secret: bytes, role: bytes, hello: bytes, drawn: bytes) -> bytes:
    return hmac.digest(secret, role + hello + drawn, "sha256")


def _read(connection: socket.socket, count: int, deadline: float) -> bytes:
    data = b""
    while len(data) < count:
        if time.monotonic() > deadline:
            raise TimeoutError("it has not introduced itself in time")
        connection.settimeout(left(deadline))
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("the connection was closed")
        data += part
    return data
