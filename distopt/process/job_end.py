"""The end of a replica's process, and of the job with it: a failure is printed under the replica's name, then Abort.

After a failure MPI is never finalised: that would wait for the others. Where MPI was not initialised the others can't
be told, so the process ends by a signal, which every launcher takes as the end of the job.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from distopt.process.launcher import launched
from distopt.process.system import describe_memory
from distopt.settings import RUN_DIR
from distopt.speaking import flush, say

DRAIN_SECONDS = 0.25
"""Seconds that the launcher has to pass on what was printed."""

STAGGER_SECONDS = 0.4
"""Seconds by which each replica prints later a failure from before MPI was initialised, or an interruption."""

INTERRUPTED = "interrupted (Ctrl-C)\n"


def end_job(text: str, status: int, *, is_first: bool = True) -> NoReturn:
    """Print a failure under its replica's name and end every process of the job.

    Args:
        text: of the failure.
        status: what this process ends with.
        is_first: whether no other replica's failure has come before, so that this one is to be printed last.
    """
    status = status & 0xFF or 1  # all that the system keeps of it: sys.exit(256) is no success
    index, mpi = index_in_job(), sys.modules.get("mpi4py.MPI")
    if mpi is None or not mpi.Is_initialized():
        give_way()
    message = f"\nReplica {index} failed: {text}" if "\n" not in text.strip() else f"\nReplica {index} failed:\n{text}"
    flush()
    is_reported = is_first and _leave_report(index, message)
    if not (is_reported and text == INTERRUPTED):  # ``distopt run`` says that itself, in one line
        say(message.removesuffix("\n"), past_wrappers=True)
    # A launcher drops what it has not read from its replicas' pipes when the job is aborted.
    time.sleep(DRAIN_SECONDS)
    with suppress(Exception):
        if mpi is not None and mpi.Is_initialized() and not is_finalized():
            mpi.COMM_WORLD.Abort(status)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(DRAIN_SECONDS)  # another thread may be the one that the signal reaches
    os._exit(status)


def end_without_mpi(status: int) -> NoReturn:
    """End this process and leave MPI as it is."""
    flush()
    os._exit(status)


def end_child(status: int) -> None:
    """End a forked child before mpi4py finalises MPI: the connections are the replica's, and it would wait for ever."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized():
        end_without_mpi(status)


def give_way(seconds: float = 0.0) -> None:
    """Let the lowest replica end the job before the rest, where all fail alike and can't agree on who was first.

    Args:
        seconds: how long that may take.
    """
    index = index_in_job()
    if index:
        time.sleep(seconds + min(index, 4) * STAGGER_SECONDS)


def index_in_job() -> int:
    """Return this replica's number among those that the launcher started."""
    launch = launched()
    return 0 if launch is None else launch.rank


def is_finalized() -> bool:
    """Return whether the script has finalised MPI itself."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and bool(mpi.Is_finalized())


def does_without_mpi() -> bool:
    """Return whether the script has kept mpi4py from initialising MPI, and has not done it itself."""
    mpi4py, mpi = sys.modules.get("mpi4py"), sys.modules.get("mpi4py.MPI")
    is_initialised = mpi is not None and mpi.Is_initialized()
    return mpi4py is not None and not mpi4py.rc.initialize and not is_initialised


def format_failure(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> str:
    """Return the traceback; where memory has run out, with what is used and allowed. Never raises."""
    try:
        text = "".join(traceback.format_exception(kind, error, trace))
        return f"{text}({describe_memory()})\n" if isinstance(error, MemoryError) else text
    except Exception as trouble:  # the error's class and the loader of its module may be the user's
        return f"{kind.__name__} (its traceback can't be shown: {type(trouble).__name__})\n"


def _leave_report(index: int, message: str) -> bool:
    """Leave the failure where ``distopt run`` looks for it, to print it last; return whether it does."""
    directory = RUN_DIR.read()
    if directory:
        report = Path(directory, f"failure-{index}.txt")
        part = report.with_suffix(".part")
        with suppress(OSError):  # on another host than that of ``distopt run`` there is no such directory; a full disk
            part.write_text(message.lstrip(), encoding="utf-8", errors="backslashreplace")
            part.replace(report)
            return True
    return False
