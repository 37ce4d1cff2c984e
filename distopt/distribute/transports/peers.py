"""Connections between replicas that told each other their addresses: TCP, for those who know a common secret.

Both ends prove that they know it (HMAC-SHA256 over what both have drawn) before either reads anything else; whoever
can't is turned away. A replica listens on one port, on the loopback address where all replicas run on one node.
"""

from __future__ import annotations

import hmac
import itertools
import os
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from distopt.errors import ReplicaError

SECRET_BYTES = 32

CONNECT_SECONDS = 60.0
"""Seconds that all replicas may take to connect to each other."""

_STRANGER_SECONDS = 2.0
_MAGIC = b"distopt1"
_HELLO = struct.Struct(f"<{len(_MAGIC)}sII{SECRET_BYTES}s")
_PROOF_BYTES = 32
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Member:
    """The address of one replica of a group.

    Args:
        node: identifier of its node.
        address: IP address of the node.
        pid: its process.
        port: where it listens; 0 before it does.
    """

    node: str
    address: str
    pid: int
    port: int = 0


def listen(me: Member, nodes: Sequence[str]) -> socket.socket:
    """Return a socket that listens where the other replicas can reach it, and nowhere else.

    Args:
        me: this replica; its port is chosen by the system.
        nodes: the nodes of all replicas.
    """
    address = _LOOPBACK if len(set(nodes)) == 1 else me.address
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=len(nodes))


class Peers:
    """The connections of one replica of a group to the others.

    Args:
        index: this replica's.
        members: all replicas of the group.
        secret: what all of them know, and nobody else.
        listener: this replica's, from ``listen``.
    """

    def __init__(self, index: int, members: Sequence[Member], secret: bytes, listener: socket.socket) -> None:
        self.index, self.members = index, tuple(members)
        self._secret, self.listener = secret, listener
        self.purposes = itertools.count()
        """Numbers for what connections are for; all replicas draw them in the same order."""
        self._waiting: dict[tuple[int, int], socket.socket] = {}
        self._made: list[socket.socket] = []
        self._connecting = threading.Lock()

    def connect(self, purpose: int) -> dict[int, socket.socket]:
        """Connect to every other replica; all of them call it together, with the same number.

        Args:
            purpose: what the connections are for; each number is used once.

        Returns:
            A socket for every other replica, by index.

        Raises:
            ReplicaError: not all of them came in time, or one does not know the secret.
        """
        deadline = time.monotonic() + CONNECT_SECONDS
        sockets = {}
        with self._connecting:
            for r in range(self.index):
                sockets[r] = self._call(r, purpose, deadline)
            awaited = set(range(self.index + 1, len(self.members)))
            while missing := awaited - sockets.keys():
                for r in missing & {r for waits_for, r in self._waiting if waits_for == purpose}:
                    sockets[r] = self._waiting.pop((purpose, r))
                if awaited - sockets.keys():
                    self._admit_one(sorted(awaited - sockets.keys()), deadline)
        for each in sockets.values():
            each.settimeout(0)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sockets

    def close(self) -> None:
        """End every connection; the other ends notice at once, and so do threads of this process that wait in one."""
        for each in self._made:
            with suppress(OSError):  # it has ended already
                each.shutdown(socket.SHUT_RDWR)
        self.forget()

    def forget(self) -> None:
        """Close this process's hold of the connections: those of its parent, from which it was forked, go on."""
        for each in [self.listener, *self._made]:
            each.close()

    def _call(self, replica: int, purpose: int, deadline: float) -> socket.socket:
        there = self.members[replica]
        address = _LOOPBACK if len({member.node for member in self.members}) == 1 else there.address
        try:
            connection = socket.create_connection((address, there.port), _left(deadline))
            self._made.append(connection)
            hello = _HELLO.pack(_MAGIC, purpose, self.index, os.urandom(SECRET_BYTES))
            connection.sendall(hello)
            answer = _read(connection, SECRET_BYTES + _PROOF_BYTES)
            drawn, proof = answer[:SECRET_BYTES], answer[SECRET_BYTES:]
            if not hmac.compare_digest(proof, self._prove(b"answer", hello, drawn)):
                raise ConnectionError("it does not know the secret of this group")
            connection.sendall(self._prove(b"caller", hello, drawn))
        except OSError as error:
            raise ReplicaError(
                f"replica {self.index} can't connect to replica {replica} at {address}:{there.port} ({error}): is its "
                "process alive, and can the nodes reach each other on that address?"
            ) from error
        return connection

    def _admit_one(self, awaited: Sequence[int], deadline: float) -> None:
        """Wait for the next one that knows the secret."""
        try:
            self.listener.settimeout(_left(deadline))
            connection, _ = self.listener.accept()
        except TimeoutError:
            names = ", ".join(f"{r} ({self.members[r].address}, process {self.members[r].pid})" for r in awaited)
            raise ReplicaError(
                f"replica {self.index} has waited {CONNECT_SECONDS:g} s for a connection from replica {names}: is its "
                "process alive, and can the nodes reach each other?"
            ) from None
        with suppress(OSError):  # a stranger, or one that has given up
            connection.settimeout(_STRANGER_SECONDS)
            hello = _read(connection, _HELLO.size)
            magic, purpose, replica, _ = _HELLO.unpack(hello)
            drawn = os.urandom(SECRET_BYTES)
            connection.sendall(drawn + self._prove(b"answer", hello, drawn))
            proof = _read(connection, _PROOF_BYTES)
            if magic == _MAGIC and hmac.compare_digest(proof, self._prove(b"caller", hello, drawn)):
                self._waiting[purpose, replica] = connection
                self._made.append(connection)
                return
        connection.close()

    def _prove(self, role: bytes, hello: bytes, drawn: bytes) -> bytes:
        return hmac.digest(self._secret, role + hello + drawn, "sha256")


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 1e-3)


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("the connection was closed")
        data += part
    return data
