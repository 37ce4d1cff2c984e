"""Finds the replica that died first, from the launcher's output and from the processes on this host."""

from __future__ import annotations

import os
import re
import select
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from distopt.cli.joining import Joining
from distopt.cli.records import Records, named
from distopt.errors import DistoptError
from distopt.process.system import ControlGroup, in_gib

_MPICH = re.compile(r"PID (\d+) RUNNING AT (\S+)(?:(?!RUNNING AT).)*?\(signal (\d+)\)", re.DOTALL)
_KILLED = f"was killed by signal {signal.SIGKILL:d} (SIGKILL)"
_OPEN_MPI = re.compile(r"process rank (\d+) with PID (\d+) on node (\S+) exited on\s+signal (\d+)")

_LAST_SECONDS = 1.0
"""The time that a replica may take to end after its launcher."""


class ReplicaMonitor(threading.Thread):
    """Notes which of this host's replicas ended first.

    When one replica dies, MPICH kills the others at once, and then may name one of these as the cause. Waiting on
    process ids may also report deaths in another order. So each replica holds a named pipe open. The kernel closes the
    pipe before other replicas can notice the death, and epoll reports events in their order, however late it is asked.

    Args:
        folder: the folder in which the replicas report; it also holds the pipes.
        replicas: the number of replicas of the job.
        joining: the clock for their way into MPI, of which they tell through the same pipes.
    """

    def __init__(self, folder: Path, replicas: int, joining: Joining) -> None:
        super().__init__(daemon=True)
        self.records = Records(folder)
        self._joining = joining
        self.first: int | None = None
        self._ended, self._first_is_known = threading.Event(), threading.Event()
        self._pipes: dict[int, int] = {}
        try:
            for index in range(replicas):
                path = folder / f"alive-{index}"
                os.mkfifo(path)
                self._pipes[os.open(path, os.O_RDONLY | os.O_NONBLOCK)] = index
        except OSError as error:
            for pipe in self._pipes:  # whoever removes the folder has to open it
                os.close(pipe)
            raise DistoptError(
                f"{replicas} replicas can't be watched from here, only {len(self._pipes)}: {error.strerror}. Each "
                "takes an open file: ask for fewer replicas, or raise the limit (ulimit -n)"
            ) from None
        self.start()

    def run(self) -> None:
        """Listen to the pipes until ``stop`` is called."""
        with select.epoll() as epoll:
            for pipe in self._pipes:
                epoll.register(pipe, select.EPOLLIN | select.EPOLLHUP)
            while not self._ended.is_set():
                for pipe, event in epoll.poll(0.05, maxevents=1):
                    if event & select.EPOLLIN:  # an end that came with it is told again, in its turn
                        self._joining.note(self._pipes[pipe], os.read(pipe, 64))
                    else:
                        epoll.unregister(pipe)
                        self._note_end(self._pipes[pipe])
                self._joining.check_clock()
        for pipe in self._pipes:
            os.close(pipe)

    def _note_end(self, replica: int) -> None:
        self.first = replica if self.first is None else self.first
        self._first_is_known.set()
        self._joining.note_end(replica)

    def stop(self) -> None:
        """Stop watching the replicas, of which one has ended: a launcher may be quicker than its replicas."""
        self._first_is_known.wait(_LAST_SECONDS)
        self._ended.set()
        self.join()

    def first_name(self) -> str | None:
        """Return the name of the replica that ended first, if that is known."""
        return None if self.first is None else self.records.name(self.first)

    def signal_replicas(self, number: int) -> int:
        """Send a signal to those replicas on this host that have reported; return how many it reached."""
        reached = 0
        for pid in self.records.pids_here():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                reached += 1
        return reached


def killed(text: str, records: Records, first: str | None, cause_of_sigkill: str) -> list[str]:
    """Return a sentence for each replica that was killed.

    Args:
        text: the end of the launcher's output.
        records: what the replicas of this host have reported.
        first: the name of the one that ended first, if that is known.
        cause_of_sigkill: why the kernel, or somebody, has killed a replica, as the end of a sentence.
    """
    sentences = [
        _sentence(named(int(index), int(pid), host), int(number), cause_of_sigkill)
        for index, pid, host, number in _OPEN_MPI.findall(text)
    ]
    for pid, host, number in _MPICH.findall(text):
        who = first if host == os.uname().nodename else None
        who = who or named(records.index_of(int(pid), host), int(pid), host)
        sentences.append(_sentence(who, int(number), cause_of_sigkill))
    return sentences


def cause_of_sigkill(faults: Sequence[str], before: ControlGroup | None, after: ControlGroup | None) -> str:
    """Return why a replica was killed by SIGKILL, as the end of a sentence about it.

    Args:
        faults: the faults that were injected.
        before: this process's control group before the job (the replicas belong to it too).
        after: the same control group after the job.
    """
    kills = [fault for fault in faults if fault.split()[:1] == ["kill"]]
    if kills:
        return f"{_KILLED}, as --inject asked for: {', '.join(map(repr, kills))}"
    return _memory_ran_out(before, after) or f"{_KILLED}; if nobody killed it, it may have run out of memory"


def _memory_ran_out(before: ControlGroup | None, after: ControlGroup | None) -> str | None:
    """Say that memory ran out, if the kernel has killed a process for that during the job; else return None."""
    if before is None or after is None or after.kills <= before.kills:
        return None
    limit = "the machine's memory was full" if after.limit is None else f"the limit here is {in_gib(after.limit)}"
    return (
        f"ran out of memory: {limit}, and the kernel killed it. Use fewer replicas per node, a smaller local batch, or "
        'update="shared" (parameters and slots once per node)'
    )


def _sentence(who: str, number: int, cause_of_sigkill: str) -> str:
    if number == signal.SIGKILL:
        return f"distopt run: {who} {cause_of_sigkill}"
    return f"distopt run: {who} was killed by signal {number} ({signal.Signals(number).name})"
