"""A replica whose launcher is gone ends: nobody would read what it prints, or end it when the others fail.

A launcher that is killed (SIGKILL, out of memory) takes its replicas along under some MPI libraries only, and the
daemon between it and them takes them along under none. So a thread waits, without using the processor, for the end
of any of them. Where MPI is first used in an exit handler, which starts no thread, the main thread looks for them
while it waits for other replicas. Where the system can't wait for a process that is no child (before Linux 5.3)
nothing is watched.

No thread of Python runs while MPI is initialised: mpi4py keeps the interpreter's lock. There MPICH waits, at full
speed, for replicas that may never come. So the kernel ends the process with its parent meanwhile.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from distopt.process.exiting import is_exiting
from distopt.process.launcher import DAEMONS, ancestors, launched
from distopt.settings import RUN_DIR
from distopt.speaking import say_without_waiting

_watched: dict[int, str] = {}
"""File descriptors that become readable when a process ends, with its name."""

_watched_pids: set[int] = set()
"""The same processes by their ids."""

_PR_SET_PDEATHSIG = 1
"""Linux's number for the signal that a process gets when its parent ends."""

_gone: list[str] = []
"""The processes that were gone before they could be watched."""

_has_no_thread = False
"""True where the launcher is watched, but by no thread."""


def note_launcher() -> None:
    """Remember who the launcher is. Starts nothing; at the first use of MPI it may be too late to know."""
    for pid, name in _launcher_processes():
        who = f"{name}, pid {pid}"
        try:
            _watched[os.pidfd_open(pid)] = who
            _watched_pids.add(pid)
        except ProcessLookupError:
            _gone.append(who)
        except (AttributeError, OSError):
            return


@functools.cache
def watch_launcher() -> None:
    """Watch the launcher from now on: when it is gone, this process ends. Called before the first use of MPI."""
    global _has_no_thread
    if not _watched and not _gone:
        return
    _has_no_thread = is_exiting()
    if not _has_no_thread:
        threading.Thread(target=_end_with_launcher, name="distopt launcher watch", daemon=True).start()
    _end_with_launcher(0)  # the thread may not get its turn before the interpreter's lock is kept


@contextmanager
def ending_with_parent() -> Iterator[None]:
    """Let the kernel end this process with its parent, if that belongs to the launcher: no Python runs meanwhile.

    Where no thread watches, that holds until the process ends.
    """
    import ctypes  # where MPI begins: importing distopt is quick

    parent = os.getppid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if parent in _watched_pids else None  # Linux has it
    if prctl is None:
        yield
        return
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _end_with_launcher(0)  # it may have ended just before
    try:
        yield
    finally:
        if not _has_no_thread:
            prctl(_PR_SET_PDEATHSIG, 0)


def check_launcher() -> None:
    """End this process if its launcher is gone, where no thread does so. Called again and again while it waits."""
    if _has_no_thread:
        _end_with_launcher(0)


def _launcher_processes() -> Iterator[tuple[int, str]]:
    """The daemons that lead from the launcher to this process, the launcher, and ``distopt run`` above it."""
    found = False
    for pid, name in ancestors():
        if name.startswith(DAEMONS):
            found = True
            yield pid, name
        elif found:
            if os.path.isdir(RUN_DIR.read() or ""):  # on the host of distopt run only
                yield pid, name
            return


def _end_with_launcher(milliseconds: int | None = None) -> None:
    """End this process when its launcher is gone, if that is so within this time."""
    poll = select.poll()
    for descriptor in _watched:
        poll.register(descriptor, select.POLLIN)
    gone = _gone or [_watched[descriptor] for descriptor, _ in poll.poll(milliseconds)]
    if not gone:
        return
    launch = launched()
    index = "" if launch is None else f" {launch.rank}"
    say_without_waiting(f"\nReplica{index} stopped: its launcher is gone ({gone[0]})")  # its reader may be gone too
    os._exit(1)
