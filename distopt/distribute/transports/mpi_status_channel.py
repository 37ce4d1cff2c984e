"""The watchdog's status channel under MPI: a thread per replica that answers for it, on a communicator of its own."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import threading
import time
from dataclasses import asdict
from typing import Any

from distopt.distribute.agreement.watchdog import ANY_CALL, Status, Watchdog
from distopt.distribute.transports.last_word import as_error, last_word
from distopt.errors import ReplicaLeftError
from distopt.process.unresponsive import OUT_OF_SIGHT, Unresponsive, explain_process

_ASKED, _ANSWERED, _ENDED, _LEFT, _LEAVES = 1, 2, 3, 4, 5
_END_SECONDS = 1.0
_TICK_SECONDS = 0.1
_ASKING_TICK_SECONDS = 0.005


_open: set[MPIStatusChannel] = set()


@functools.cache
def _stop_before_mpi(mpi: Any) -> None:
    """Stop all channels before MPI is finalised, at exit or by the script: no thread may be inside it then."""

    def stop(*_: Any) -> None:
        for channel in list(_open):
            channel.stop()

    atexit.register(stop)
    mpi.COMM_SELF.Set_attr(mpi.Comm.Create_keyval(delete_fn=stop), None)


class MPIStatusChannel:
    """Questions go to the other replicas' threads; the answers come to whoever waits.

    Args:
        mpi: the module mpi4py.MPI.
        comm: a communicator that nobody else uses; all replicas make the channel together.
        nodes: the node of every replica.
        watchdog: what this replica does; learns there who is lost.
    """

    def __init__(self, mpi: Any, comm: Any, nodes: tuple[int, ...], watchdog: Watchdog) -> None:
        self._mpi, self._comm, self._nodes, self._watchdog = mpi, comm, nodes, watchdog
        self._pids = comm.allgather(os.getpid())
        self.neighbours = [r for r, node in enumerate(nodes) if node == nodes[comm.rank] and r != comm.rank]
        self._sent: list[Any] = []
        self._question = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._answer, name="distopt watchdog", daemon=True)
        self._thread.start()
        _open.add(self)
        _stop_before_mpi(mpi)

    def stop(self) -> None:
        """Answer no more."""
        self._watchdog.end()
        self._ended.set()
        self._thread.join()

    def close(self) -> None:
        """Give the communicator back (collective): first nobody asks or answers any more, and all has arrived."""
        self.stop()
        _open.discard(self)
        arrived = self._comm.Ibarrier()
        while not arrived.Test():
            for tag in (_ASKED, _ANSWERED):
                self._received(tag)
            os.sched_yield()
        for tag in (_ASKED, _ANSWERED):
            self._received(tag)
        self._comm.Free()

    def end(self, error: BaseException) -> None:
        """Tell the others that this replica has failed: those who wait for it raise. Never raises."""
        self._tell_all(_ENDED, last_word(self._comm.rank, error))

    def announce_left(self, call: int, error: BaseException) -> None:
        """Tell the others that this replica has left its n-th call in the middle. Never raises."""
        self._tell_all(_LEFT, last_word(self._comm.rank, error) | {"call": call})

    def announce_end(self) -> None:
        """Tell the others that this replica makes no call any more, but those that end it. Never raises."""
        self._tell_all(_LEAVES, {})

    def _tell_all(self, tag: int, message: dict[str, Any]) -> None:
        word = json.dumps(message).encode()
        sent = []
        for replica in range(self._comm.size):
            if replica != self._comm.rank:
                with contextlib.suppress(self._mpi.Exception):  # it has died
                    sent.append(self._comm.Isend(word, dest=replica, tag=tag))
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline and not self._are_done(sent):
            time.sleep(_ASKING_TICK_SECONDS)

    def _are_done(self, requests: list[Any]) -> bool:
        with contextlib.suppress(self._mpi.Exception):
            return all(request.Test() for request in requests)
        return False

    def ask(self, seconds: float) -> list[Status | None]:
        """Return every replica's status, None where there was no answer in time."""
        comm, me = self._comm, self._comm.rank
        self._question += 1
        question = self._question.to_bytes(8, "little")
        statuses: list[Status | None] = [None] * comm.size
        statuses[me] = self._watchdog.status()
        others = [r for r in range(comm.size) if r != me]
        self._sent += [(comm.Isend(question, dest=r, tag=_ASKED), question) for r in others]
        deadline = time.monotonic() + seconds
        while None in statuses and time.monotonic() < deadline:
            for source, answer in self._received(_ANSWERED):
                if answer[:8] == question:  # not one to an earlier question
                    statuses[source] = Status(**json.loads(answer[8:]))
            time.sleep(_ASKING_TICK_SECONDS)
        self._sent = [(request, data) for request, data in self._sent if not request.Test()]
        return statuses

    def explain_silence(self, replica: int) -> Unresponsive:
        """Say what /proc shows of a replica on this node."""
        if self._nodes[replica] != self._nodes[self._comm.rank]:
            return OUT_OF_SIGHT
        return explain_process(self._pids[replica])

    def _answer(self) -> None:
        with contextlib.suppress(self._mpi.Exception):  # a replica has died: whoever waits for it is told
            self._answer_questions()

    def _answer_questions(self) -> None:
        sent: list[Any] = []
        while not self._ended.wait(_TICK_SECONDS):
            for _, word in self._received(_ENDED):
                self._watchdog.lost = self._watchdog.lost or as_error(json.loads(word), self._watchdog.index)
            for replica, word in self._received(_LEFT):
                left = json.loads(word)
                self._watchdog.note_left(replica, left["call"], as_error(left, self._watchdog.index))
            for replica, _ in self._received(_LEAVES):
                error = ReplicaLeftError(
                    f"replica {replica} of {self._comm.size} has ended (its script is over), and replica "
                    f"{self._watchdog.index} waits for it in a strategy that it never used: every replica must make "
                    "the same calls in the same scopes"
                )
                self._watchdog.note_left(replica, ANY_CALL, error)
            for source, question in self._received(_ASKED):
                data = question + json.dumps(asdict(self._watchdog.status())).encode()
                sent.append((self._comm.Isend(data, dest=source, tag=_ANSWERED), data))
            sent = [(request, data) for request, data in sent if not request.Test()]

    def _received(self, tag: int) -> list[tuple[int, bytes]]:
        """Take the messages that have come."""
        messages: list[tuple[int, bytes]] = []
        about = self._mpi.Status()
        while (message := self._comm.Improbe(tag=tag, status=about)) is not None:
            buffer = bytearray(about.Get_count())
            message.Recv(buffer)
            messages.append((about.source, bytes(buffer)))
        return messages
