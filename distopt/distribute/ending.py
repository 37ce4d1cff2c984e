"""How a replica that a launcher started ends, so that nobody waits for it.

* It returned: at exit it says goodbye in place of a header and waits for the others; when all have said it, MPI
  is finalised. Others that are still stepping get ``ReplicaLeftError`` instead of waiting for ever.
* It failed (an exception in any thread, ``sys.exit(n)``): it offers its failure in place of a header for
  ``OFFER_SECONDS``, so that the others raise too. The first failure alone prints its traceback, last; then Abort.
* It failed before MPI was initialised: the others can't be told, so it ends by a signal, which every launcher
  takes as the end of the job.

After a failure MPI is never finalised: that would wait for the others. Nor is it in a forked child, whose MPI is the
replica's.

At exit every replica says goodbye on the communicators that it used and, the last, on that of the whole job, used or
not: those who trained with a part of the job, those who stayed out and those who left too early all meet there. So
a job in which some processes never import distopt must call ``MPI.Finalize()`` at the end of the others' script.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from distopt.distribute.agreement import open_communicators
from distopt.process import forked, trouble
from distopt.process.launcher import RUN_DIRECTORY, launched
from distopt.process.orphans import note_launcher
from distopt.process.system import describe_memory

if TYPE_CHECKING:
    from distopt.distribute.agreement.communicator import Communicator

OFFER_SECONDS = 3.0
"""How long a failing replica offers its failure to the others before it ends the job."""

BROKEN_STEP_SECONDS = 1.0
"""The same after a failure inside a step, where the others wait for a payload and can hardly be told, and after Ctrl-C,
which most often reaches them too."""

DRAIN_SECONDS = 0.25
"""How long the launcher is given to pass on what was printed."""

STAGGER_SECONDS = 0.4
"""How much later each replica prints a failure from before MPI was initialised, or an interruption."""

INTERRUPTED = "interrupted (Ctrl-C)\n"


def install() -> None:
    """Install the hooks in a process that a launcher started; elsewhere do nothing. Starts nothing."""
    if launched() is None:
        return
    sys.excepthook = _on_exception
    threading.excepthook = _on_thread_exception
    sys.unraisablehook = _on_unraisable
    trouble.notice_exits()
    atexit.register(_at_exit)
    forked.mark_children(trouble.notice_all_exits)
    note_launcher()
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__, all_threads=False)


def _on_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from distopt.errors import ReplicaFailedError

    if forked.in_child:
        trouble.note_exit_status(1)
        sys.__excepthook__(kind, error, trace)
        return
    if isinstance(error, KeyboardInterrupt):
        _fail(INTERRUPTED, status=130)
    text = _format(kind, error, trace)
    _fail(text, is_consequence=isinstance(error, ReplicaFailedError))


def _on_thread_exception(args: threading.ExceptHookArgs) -> None:
    if issubclass(args.exc_type, SystemExit):  # ends the thread, as in Python
        return
    if forked.in_child:
        threading.__excepthook__(args)
        return
    name = "?" if args.thread is None else args.thread.name
    text = _format(args.exc_type, args.exc_value, args.exc_traceback)
    # The main thread may be inside an operation on the communicators: this one can't use them.
    _end_job(f"in thread {name!r}:\n{text}", status=1)


def _on_unraisable(args: sys.UnraisableHookArgs) -> None:
    """A Ctrl-C that comes while Python ends, or in a ``__del__``, would be ignored."""
    if issubclass(args.exc_type, KeyboardInterrupt) and not forked.in_child:
        _fail(INTERRUPTED, status=130)
    sys.__unraisablehook__(args)


def _format(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> str:
    text = "".join(traceback.format_exception(kind, error, trace))
    return f"{text}({describe_memory()})\n" if isinstance(error, MemoryError) else text


def _at_exit() -> None:
    if forked.in_child:
        _end_child()
    if forked.in_child or _is_finalized():
        return
    status = trouble.exit_status()
    if status != 0:
        _fail(f"called sys.exit({status})\n", status=status)
    if trouble.broken_by() is not None:
        _fail("ended after a failure inside a step (it was caught); the others wait for it\n")
    for communicator in _communicators():
        if communicator.size > 1:
            _leave(communicator, None)
    if open_communicators.has_lost_replicas():
        _end_without_mpi(0)  # Finalize would wait for the dead


def _end_without_mpi(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # there is none, or it is closed
            stream.flush()
    os._exit(status)


def _end_child() -> None:
    """End before mpi4py finalises MPI: the connections are the replica's, and the child would wait for ever."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized():
        _end_without_mpi(trouble.exit_status())


def _fail(text: str, *, status: int = 1, is_consequence: bool = False) -> NoReturn:
    """Offer the failure to the others, print it if it is the first, and end the job."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C must not break this off
    is_short = trouble.broken_by() is not None or text == INTERRUPTED
    deadline = time.monotonic() + (BROKEN_STEP_SECONDS if is_short else OFFER_SECONDS)
    is_agreed = False
    for communicator in [] if _is_finalized() else open_communicators.opened():
        if communicator.size > 1:
            is_first = _leave(communicator, text, deadline, is_consequence)
            if is_first is False or (is_first is None and is_consequence):
                # Another replica's failure came first: it prints and ends the job; this one must not be quicker.
                time.sleep(OFFER_SECONDS)
                is_consequence = True
            is_agreed = is_agreed or is_first is True
    if text == INTERRUPTED and not is_agreed:
        launch = launched()
        _give_way(0 if launch is None else launch.rank, OFFER_SECONDS)
    if is_consequence:
        _end_job("stopped, since another replica failed\n", status, is_first=False)
    _end_job(text, status)


def _give_way(index: int, seconds: float = 0.0) -> None:
    """Where replicas that can't agree on who was first fail alike, let the lowest one end the job before the rest."""
    if index:
        time.sleep(seconds + min(index, 4) * STAGGER_SECONDS)


def _leave(
    communicator: Communicator, failure: str | None, deadline: float | None = None, is_consequence: bool = False
) -> bool | None:
    """Take part in the others' headers until all have ended.

    Returns:
        Whether this replica's failure is the first; None if the replicas can't agree on that any more.
    """
    from distopt.distribute.agreement.header import Kind, end_round

    kind = Kind.GOODBYE if failure is None else Kind.CONSEQUENCE if is_consequence else Kind.RAISED
    summary = "" if failure is None else failure.strip().splitlines()[-1]
    try:
        while True:
            kinds = end_round(communicator, kind, summary, deadline)
            if all(k is Kind.GOODBYE for k in kinds):
                return True
            if Kind.CALL not in kinds:
                break
            deadline = deadline or time.monotonic() + 2 * OFFER_SECONDS
    except Exception:  # whatever keeps the replicas from agreeing on the end, the job must end
        if failure is None:
            _end_job("has ended, but the others did not follow: the job is over\n", status=1)
        return None
    first = min(range(len(kinds)), key=lambda r: (kinds[r] is not Kind.RAISED, kinds[r] is Kind.GOODBYE, r))
    if failure is None:
        time.sleep(2 * OFFER_SECONDS)
        _end_job("has ended early\n", status=1, is_first=False)
    return bool(first == communicator.index)


def _communicators() -> list[Communicator]:
    """Every communicator in use, and that of the job, so that nobody waits for it in vain; some of it may be dead."""
    used = open_communicators.opened()
    if open_communicators.has_lost_replicas():
        return used
    from distopt.distribute.strategy import default_strategy

    job = default_strategy().communicator
    return [*(each for each in used if each is not job), job]


def _is_finalized() -> bool:
    """Whether the script has finalised MPI itself."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and bool(mpi.Is_finalized())


def _end_job(text: str, status: int, *, is_first: bool = True) -> NoReturn:
    """Print a failure under its replica's name and end every process of the job."""
    launch, mpi = launched(), sys.modules.get("mpi4py.MPI")
    index = 0 if launch is None else launch.rank
    if mpi is None:
        _give_way(index)
    message = f"\nReplica {index} failed: {text}" if "\n" not in text.strip() else f"\nReplica {index} failed:\n{text}"
    sys.stdout.flush()
    is_reported = is_first and _leave_report(index, message)
    if not (is_reported and text == INTERRUPTED):  # ``distopt run`` says that itself, in one line
        stream = sys.__stderr__ or sys.stderr  # libraries that wrap the excepthook may catch what goes to sys.stderr
        stream.write(message)
        stream.flush()
    # A launcher drops what it has not read from its replicas' pipes when the job is aborted.
    time.sleep(DRAIN_SECONDS)
    if mpi is not None and mpi.Is_initialized() and not _is_finalized():
        mpi.COMM_WORLD.Abort(status)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(DRAIN_SECONDS)  # another thread may be the one that the signal reaches
    os._exit(status)


def _leave_report(index: int, message: str) -> bool:
    """Leave the failure where ``distopt run`` looks for it, to print it last; return whether it does."""
    directory = os.environ.get(RUN_DIRECTORY)
    if directory:
        with contextlib.suppress(OSError):  # on another host than that of ``distopt run`` there is no such directory
            Path(directory, f"failure-{index}.txt").write_text(message.lstrip())
            return True
    return False
