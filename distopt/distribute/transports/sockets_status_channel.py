"""The watchdog's status channel between replicas that Ray has started: a thread per replica, on connections of its own.

It answers for its replica, hears at once when another one dies, and passes on why one has failed.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from distopt.distribute.agreement.watchdog import Status, Watchdog
from distopt.distribute.transports.connections.peers import Peers
from distopt.distribute.transports.connections.wire import gone
from distopt.distribute.transports.last_word import as_error, last_word
from distopt.process.unresponsive import OUT_OF_SIGHT, Unresponsive, explain_process

_LENGTH = struct.Struct("<I")
_SEND_SECONDS = 5.0


class RayStatusChannel:
    """Questions go to the other replicas' threads; the answers come to whoever waits.

    Args:
        peers: the group; all replicas make the channel together.
        purpose: the number of its connections.
        nodes: the node of every replica.
        watchdog: what this replica does; learns there who is lost.
    """

    def __init__(self, peers: Peers, purpose: int, nodes: Sequence[int], watchdog: Watchdog) -> None:
        self._index, self._members, self._nodes, self._watchdog = peers.index, peers.members, nodes, watchdog
        self.neighbours = [r for r, node in enumerate(nodes) if node == nodes[peers.index] and r != peers.index]
        self._sockets = peers.connect(purpose)
        for each in self._sockets.values():
            each.settimeout(_SEND_SECONDS)
        self._sending, self._answered = threading.Lock(), threading.Condition()
        self._question, self._answers = 0, dict[int, Status]()
        self._ended: set[int] = set()
        self._thread = threading.Thread(target=self._listen, name="distopt watchdog", daemon=True)
        self._thread.start()

    def ask(self, seconds: float) -> list[Status | None]:
        """Return every replica's status, None where there was no answer in time."""
        with self._answered:
            self._question += 1
            self._answers = {self._index: self._watchdog.status()}
        self._tell_all({"question": self._question})
        with self._answered:
            self._answered.wait_for(lambda: len(self._answers) == len(self._members), seconds)
            return [self._answers.get(r) for r in range(len(self._members))]

    def explain_silence(self, replica: int) -> Unresponsive:
        """Say what can be seen from here of a replica that does not answer."""
        if self._nodes[replica] != self._nodes[self._index]:
            return OUT_OF_SIGHT
        return explain_process(self._members[replica].pid)

    def end(self, error: BaseException | None) -> None:
        """Tell the others that this replica has ended, and why, if it has failed: those who wait for it raise.

        Args:
            error: what happened; None where all replicas have agreed on the end. What this replica itself has only
                heard of another is passed on as it is: whoever hears of it first here raises the same.
        """
        self._tell_all({"ended": None if error is None else last_word(self._index, error)})

    def announce_left(self, call: int, error: BaseException) -> None:
        """Tell the others that this replica has left its n-th call in the middle."""
        self._tell_all({"left": call, "why": last_word(self._index, error)})

    def _tell_all(self, message: dict[str, Any]) -> None:
        for replica in self._sockets:
            self._tell(replica, message)

    def _tell(self, replica: int, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        with self._sending, suppress(OSError):  # of one that is gone its own connection tells
            self._sockets[replica].sendall(_LENGTH.pack(len(data)) + data)

    def _listen(self) -> None:
        replicas = {each.fileno(): (r, each) for r, each in self._sockets.items()}
        received = dict.fromkeys(self._sockets, b"")
        poll = select.poll()
        for number in replicas:
            poll.register(number, select.POLLIN)
        while replicas:
            for number, _ in poll.poll():
                replica, connection = replicas[number]
                data = _received(connection)
                received[replica] += data
                while (message := _first(received[replica])) is not None:
                    received[replica] = received[replica][_LENGTH.size + len(message) :]
                    self._handle(replica, json.loads(message))
                if not data:
                    poll.unregister(number)
                    del replicas[number]
                    self._note_end(replica, gone(replica, "its connection was closed"))

    def _handle(self, replica: int, message: dict[str, Any]) -> None:
        if "question" in message:
            self._tell(replica, {"answer": message["question"], "status": asdict(self._watchdog.status())})
        elif "answer" in message:
            with self._answered:
                if message["answer"] == self._question:
                    self._answers[replica] = Status(**message["status"])
                    self._answered.notify_all()
        elif "left" in message:
            self._watchdog.note_left(replica, message["left"], as_error(message["why"], self._index))
        elif message["ended"] is not None:
            self._note_end(replica, as_error(message["ended"], self._index))
        self._ended.update([replica] if "ended" in message else [])

    def _note_end(self, replica: int, error: Exception) -> None:
        if replica not in self._ended and self._watchdog.lost is None:
            self._watchdog.lost = error


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except OSError:
        return b""


def _first(data: bytes) -> bytes | None:
    """Return the first message, if all of it is there."""
    if len(data) < _LENGTH.size:
        return None
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    return data[_LENGTH.size : end] if len(data) >= end else None
