"""Connections between replicas that told each other their addresses: TCP, for those who know a common secret.

Whoever does not know it is turned away: see ``introductions.py``. A replica listens on one port, on the loopback
address where all replicas run on one node.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from distopt.distribute.transports.connections.introductions import MOST_CALLERS, Door, introduce, left
from distopt.errors import ReplicaError

CONNECT_SECONDS = 60.0
"""Seconds that all replicas may take to connect to each other."""

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
    return socket.create_server((address, 0), family=family, backlog=len(nodes) + MOST_CALLERS)


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
        self._secret, self.listener, self._door = secret, listener, Door(listener, secret)
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
        self._door.close()
        for each in self._made:
            each.close()

    def _call(self, replica: int, purpose: int, deadline: float) -> socket.socket:
        there = self.members[replica]
        address = _LOOPBACK if len({member.node for member in self.members}) == 1 else there.address
        try:
            connection = socket.create_connection((address, there.port), left(deadline))
            self._made.append(connection)
            introduce(connection, self._secret, purpose, self.index, deadline)
        except OSError as error:
            raise ReplicaError(
                f"replica {self.index} can't connect to replica {replica} at {address}:{there.port} ({error}): is its "
                "process alive, and can the nodes reach each other on that address?"
            ) from error
        return connection

    def _admit_one(self, awaited: Sequence[int], deadline: float) -> None:
        """Wait for the next one that knows the secret."""
        try:
            purpose, replica, connection = self._door.admit(deadline)
        except TimeoutError:
            names = ", ".join(f"{r} ({self.members[r].address}, process {self.members[r].pid})" for r in awaited)
            raise ReplicaError(
                f"replica {self.index} has waited {CONNECT_SECONDS:g} s for a connection from replica {names}: is its "
                "process alive, and can the nodes reach each other?"
            ) from None
        self._waiting[purpose, replica] = connection
        self._made.append(connection)
