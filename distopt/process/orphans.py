"""A replica whose launcher is gone ends: nobody would read what it prints, or end it when the others fail.

A launcher that is killed (SIGKILL, out of memory) takes its replicas along under some MPI libraries only, and the
daemon between it and them takes them along under none. So a thread waits, without using the processor, for the end
of any of them. Where the system can't wait for a process that is no child (before Linux 5.3) nothing is watched.
"""

from __future__ import annotations

import functools
import os
import select
import threading
from collections.abc import Iterator
from contextlib import suppress

from distopt.process.launcher import _DAEMONS, RUN_DIRECTORY, _ancestors, launched

_watched: dict[int, str] = {}
"""File descriptors that become readable when a process ends, with its name."""

_gone: list[str] = []
"""Who was gone before it could be watched."""


def note_launcher() -> None:
    """Remember who the launcher is. Starts nothing; at the first use of MPI it may be too late to know."""
    for pid, name in _launcher_processes():
        who = f"{name}, pid {pid}"
        try:
            _watched[os.pidfd_open(pid)] = who
        except ProcessLookupError:
            _gone.append(who)
        except (AttributeError, OSError):
            return


@functools.cache
def watch_launcher() -> None:
    """Watch the launcher from now on: when it is gone, this process ends. Called before the first use of MPI."""
    if _watched or _gone:
        threading.Thread(target=_watch, name="distopt launcher watch", daemon=True).start()


def _launcher_processes() -> Iterator[tuple[int, str]]:
    """The daemons that lead from the launcher to this process, the launcher, and ``distopt run`` above it."""
    found = False
    for pid, name in _ancestors():
        if name.startswith(_DAEMONS):
            found = True
            yield pid, name
        elif found:
            if os.path.isdir(os.environ.get(RUN_DIRECTORY, "")):  # on the host of distopt run only
                yield pid, name
            return


def _watch() -> None:
    poll = select.poll()
    for descriptor in _watched:
        poll.register(descriptor, select.POLLIN)
    who = _gone[0] if _gone else _watched[poll.poll()[0][0]]
    launch = launched()
    index = "" if launch is None else f" {launch.rank}"
    with suppress(OSError):  # whoever read it may be gone as well
        os.write(2, f"\nReplica{index} stopped: its launcher is gone ({who})\n".encode())
    os._exit(1)
