"""Finds the replica that died first, from the launcher's output and from the processes on this host."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import threading
from contextlib import suppress
from pathlib import Path

from distopt.errors import DistoptError
from distopt.process.system import ControlGroup, in_gib

_MPICH = re.compile(r"PID (\d+) RUNNING AT (\S+)(?:(?!RUNNING AT).)*?\(signal (\d+)\)", re.DOTALL)
_OPEN_MPI = re.compile(r"process rank (\d+) with PID (\d+) on node (\S+) exited on\s+signal (\d+)")


class ReplicaMonitor(threading.Thread):
    """Notes which of this host's replicas ended first.

    When one replica dies, MPICH kills the others at once, and then may name one of these as the cause. Waiting on
    process ids may also report deaths in another order. So each replica holds a named pipe open. The kernel closes the
    pipe before other replicas can notice the death, and epoll reports events in their order, however late it is asked.

    Args:
        folder: the folder in which the replicas report; it also holds the pipes.
        replicas: the number of replicas of the job.
    """

    def __init__(self, folder: Path, replicas: int) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.first: int | None = None
        self._ended = threading.Event()
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
        """ReplicaMonitor the pipes until a replica has ended, or ``stop`` is called."""
        with select.epoll() as epoll:
            for pipe in self._pipes:
                epoll.register(pipe, select.EPOLLHUP)
            while self.first is None and not self._ended.is_set():
                for pipe, _ in epoll.poll(0.05, maxevents=1):
                    self.first = self._pipes[pipe]
        for pipe in self._pipes:
            os.close(pipe)

    def stop(self) -> None:
        """Stop watching the replicas."""
        self._ended.set()
        self.join()

    def first_name(self) -> str | None:
        """Return the name of the replica that ended first, if that is known."""
        if self.first is None:
            return None
        pid, host = _record(self.folder / f"replica-{self.first}.json")
        return _name(str(self.first), pid, host)

    def signal_replicas(self, number: int) -> int:
        """Send a signal to those replicas on this host that have reported; return how many it reached."""
        reached = 0
        for path in self.folder.glob("replica-*.json"):
            pid, host = _record(path)
            if host == os.uname().nodename:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), number)
                    reached += 1
        return reached


def killed(
    text: str, monitor: ReplicaMonitor, before: ControlGroup | None = None, after: ControlGroup | None = None
) -> list[str]:
    """Return a sentence for each replica that was killed.

    Args:
        text: the end of the launcher's output.
        monitor: the watch over the replicas of this host.
        before: this process's control group before the job (the replicas belong to it too).
        after: the same control group after the job.
    """
    cause = _cause_of_sigkill(before, after)
    sentences = [
        _sentence(_name(index, pid, host), int(number), cause) for index, pid, host, number in _OPEN_MPI.findall(text)
    ]
    for pid, host, number in _MPICH.findall(text):
        first = monitor.first_name() if host == os.uname().nodename else None
        sentences.append(_sentence(first or _name(_index(monitor.folder, pid, host), pid, host), int(number), cause))
    return sentences


def _cause_of_sigkill(before: ControlGroup | None, after: ControlGroup | None) -> str | None:
    """Say that memory ran out, if the kernel has killed a process for that during the job; else return None."""
    if before is None or after is None or after.kills <= before.kills:
        return None
    limit = "the machine's memory was full" if after.limit is None else f"the limit here is {in_gib(after.limit)}"
    return (
        f"ran out of memory: {limit}, and the kernel killed it. Use fewer replicas per node, a smaller local batch, or "
        'update="shared" (parameters and slots once per node)'
    )


def _index(folder: Path, pid: str, host: str) -> str | None:
    """Return the index of the replica that has reported this process id and host."""
    for path in folder.glob("replica-*.json"):
        if _record(path) == (pid, host):
            return path.stem.removeprefix("replica-")
    return None


def _record(path: Path) -> tuple[str, str]:
    record = json.loads(path.read_text(encoding="utf-8"))
    return str(record["pid"]), record["host"]


def _name(index: str | None, pid: str, host: str) -> str:
    return f"{'a replica' if index is None else f'replica {index}'} (pid {pid} on {host})"


def _sentence(who: str, number: int, cause: str | None) -> str:
    if number == signal.SIGKILL and cause is not None:
        return f"distopt run: {who} {cause}"
    text = f"distopt run: {who} was killed by signal {number} ({signal.Signals(number).name})"
    if number == signal.SIGKILL:
        text += "; if nobody killed it, it may have run out of memory"
    return text
