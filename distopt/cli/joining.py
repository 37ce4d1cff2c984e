"""Keeps the clock while replicas wait in MPI_Init for those that have not called it: they run no Python meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path

from distopt.cli.records import Records
from distopt.distribute.agreement.checks import Deadlines
from distopt.distribute.transports.mpi_init import ASKING, JOINED, WAITING, stack_file
from distopt.process.unresponsive import is_stopped

_GONE_SECONDS = 3.0
"""The time in which the launcher ends the job itself, if a replica has ended in a way that it takes for a failure."""

_LOOK_SECONDS, _ANSWER_SECONDS = 0.2, 1.0
_MOST_NAMED = 4
_CURE = (
    "The first collective or step of any replica waits for all of them. What one replica alone does before may need "
    "longer: end=... in DISTOPT_DEADLINES sets the limit in seconds"
)


class Joining:
    """The way of every replica of a job into MPI, as far as it is known on this host.

    Args:
        records: what the replicas have reported.
        replicas: how many there are.
        deadlines: how long some of them may wait for the others.
        say: called with a warning.
        end: called with the reason why the job has to end.
    """

    def __init__(
        self,
        records: Records,
        replicas: int,
        deadlines: Deadlines,
        say: Callable[[str], None],
        end: Callable[[str], None],
    ) -> None:
        self._records, self._replicas, self._deadlines = records, replicas, deadlines
        self._say, self._end = say, end
        self._waiting: set[int] = set()
        self._gone: dict[int, float] = {}
        self._since: float | None = None
        self._next_look = 0.0
        self._has_warned = False

    def note(self, replica: int, words: bytes) -> None:
        """Note what a replica has told."""
        if JOINED in words:
            self._since = None  # nobody comes through before all are there
        elif WAITING in words:
            self._waiting.add(replica)
            self._since = self._since or time.monotonic()

    def note_end(self, replica: int) -> None:
        """Note that the process of a replica has ended."""
        self._gone[replica] = time.monotonic()

    def check_clock(self) -> None:
        """Look at the clock, and warn or end the job if it is time."""
        now = time.monotonic()
        if self._since is None or now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        # One that is stopped holds up MPI_Init from inside, too.
        stopped = {replica for replica in range(self._replicas) if self._is_stopped(replica)}
        missing = [r for r in range(self._replicas) if r not in self._waiting or r in stopped]
        waited, limit = now - self._since, self._deadlines.silent if stopped else self._deadlines.end
        if any(now - self._gone.get(replica, now) > _GONE_SECONDS for replica in missing):
            limit = 0.0
        if waited >= limit:
            self._since = None
            text = self._describe(missing, waited)
            reason = f" That is longer than {limit:g} s. {_CURE}" if limit else ""
            self._end("\n\n".join([*self._stacks(missing), f"distopt run: {text}.{reason}"]))
        elif waited >= self._deadlines.warn and not self._has_warned:
            self._has_warned = True
            self._say(f"distopt run: {self._describe(missing, waited)}")

    def _describe(self, missing: list[int], waited: float) -> str:
        who = "; ".join(self._describe_one(replica) for replica in missing[:_MOST_NAMED])
        if len(missing) > _MOST_NAMED:
            who += f"; and {len(missing) - _MOST_NAMED} more"
        first = min(self._waiting.difference(missing) or self._waiting)
        return f"replica {first} has waited {waited:.0f} s in MPI_Init for " + (
            who or "the MPI library: all replicas are there (can they reach each other over the network?)"
        )

    def _describe_one(self, replica: int) -> str:
        pid = self._records.pid_here(replica)
        if pid is None:
            return f"replica {replica}, which has not been started on this host"
        name = self._records.name(replica)
        if replica in self._gone:
            return f"{name}, which has ended without MPI"
        if self._is_stopped(replica):
            return f"{name}, which is stopped (SIGSTOP, Ctrl-Z or a debugger; kill -CONT {pid} wakes it)"
        where = _program_line(self._stack_of(replica))
        return f"{name}, which has not called it" + (f" and is at {where}" if where else "")

    def _is_stopped(self, replica: int) -> bool:
        pid = self._records.pid_here(replica)
        return pid is not None and is_stopped(pid)

    def _stacks(self, missing: list[int]) -> list[str]:
        shown = [replica for replica in missing[:_MOST_NAMED] if replica not in self._gone]
        stacks = [(replica, self._stack_of(replica)) for replica in shown]
        return [f"==== replica {replica}:\n{stack}" for replica, stack in stacks if stack]

    def _stack_of(self, replica: int) -> str:
        """Ask a replica for the stacks of its threads, which need no Python; return "" if it does not answer."""
        pid, path = self._records.pid_here(replica), Path(stack_file(self._records.folder, replica))
        if pid is None or not path.exists():
            return ""
        with contextlib.suppress(OSError):
            os.truncate(path, 0)
            os.kill(pid, ASKING)
        deadline, pause = time.monotonic() + _ANSWER_SECONDS, threading.Event()
        while not (text := path.read_text(errors="replace")).endswith("\n") and time.monotonic() < deadline:
            pause.wait(0.02)
        return text.strip()


def _program_line(stack: str) -> str:
    """Return the innermost line of the main thread that is the program's own.

    Example:
        >>> _program_line('Thread 0x1 (most recent call first):\\n  File "/home/ada/train.py", line 3 in load\\n')
        '/home/ada/train.py:3'
    """
    main = stack.rpartition("(most recent call first):")[2]  # the last to be written
    lines = re.findall(r'File "(.+)", line (\d+) in ', main)
    others = (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), "<")
    own = [line for line in lines if not line[0].startswith(others)]
    return ":".join((own or lines)[0]) if lines else ""
