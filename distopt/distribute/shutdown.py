"""The end of a replica that a launcher started: nobody is left to wait for it.

* It returned: at exit it says goodbye in place of a header and waits for the others; when all have said it, MPI
  is finalised. Others that are still stepping get ``ReplicaLeftError`` instead of waiting for ever.
* It failed (an exception in any thread, ``sys.exit(n)``): it offers its failure in place of a header for
  ``OFFER_SECONDS``, so that the others raise too; then ``Communicator.fail`` tells those who came to none. The first
  failure alone prints its traceback, last; then Abort.
* It failed before MPI was initialised: the others can't be told, so it ends by a signal, which every launcher
  takes as the end of the job.

After a failure MPI is never finalised: that would wait for the others. Nor is it in a forked child, whose MPI is the
replica's.

At exit every replica says goodbye on the communicators that it used and on that of the whole job, used or not, on all
at once: those who trained with a part of the job, those who stayed out and those who left too early all meet there. So
a job in which some processes never import distopt must call ``MPI.Finalize()`` at the end of the others' script.
"""

from __future__ import annotations

import atexit
import faulthandler
import signal
import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from distopt.distribute.agreement import open_communicators
from distopt.distribute.transports import mpi_init
from distopt.errors import ReplicaError, ReplicaFailedError, StalledError
from distopt.process import forked, trouble
from distopt.process.job_end import (
    INTERRUPTED,
    does_without_mpi,
    end_child,
    end_job,
    end_without_mpi,
    format_failure,
    give_way,
    is_finalized,
)
from distopt.process.launcher import launched
from distopt.process.launcher_watch import note_launcher
from distopt.process.replica import current_replica

if TYPE_CHECKING:
    from distopt.distribute.agreement.communicator import Communicator

OFFER_SECONDS = 3.0
"""Seconds that a failing replica offers its failure to the others before it ends the job."""

BROKEN_STEP_SECONDS = 1.0
"""The same after a failure inside a step, where the others wait for a payload and come to no header, and after Ctrl-C,
which most often reaches them too."""

_CAUGHT_IN_A_STEP = "ended after a failure inside a step (it was caught); the others wait for it\n"


def install() -> None:
    """Install the hooks in a process that a launcher started; elsewhere do nothing. Starts nothing."""
    if launched() is None:
        return
    sys.excepthook = _on_exception
    threading.excepthook = _on_thread_exception
    sys.unraisablehook = _on_unraisable
    trouble.notice_exits()
    atexit.register(_at_exit)
    forked.mark_children()
    note_launcher()
    mpi_init.install_clock()
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        with suppress(OSError, ValueError):  # it is closed
            faulthandler.enable(sys.__stderr__, all_threads=False)


def _on_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if forked.in_child:
        sys.__excepthook__(kind, error, trace)
    elif isinstance(error, KeyboardInterrupt):
        _fail(error, INTERRUPTED, status=130)
    else:
        _fail(error, format_failure(kind, error, trace), is_consequence=trouble.is_consequence(error))


def _on_thread_exception(args: threading.ExceptHookArgs) -> None:
    if issubclass(args.exc_type, SystemExit):  # ends the thread, as in Python
        return
    if forked.in_child:
        threading.__excepthook__(args)
        return
    name = "?" if args.thread is None else args.thread.name
    text = format_failure(args.exc_type, args.exc_value, args.exc_traceback)
    # The main thread may be inside an operation on the communicators: this one can't use them.
    end_job(f"in thread {name!r}:\n{text}", status=1)


def _on_unraisable(args: sys.UnraisableHookArgs) -> None:
    """A Ctrl-C that comes while Python ends, or in a ``__del__``, would be ignored."""
    if issubclass(args.exc_type, KeyboardInterrupt) and not forked.in_child:
        _fail(KeyboardInterrupt(), INTERRUPTED, status=130)
    sys.__unraisablehook__(args)


def _at_exit() -> None:
    status, broken_by, uncaught = trouble.exit_status(), trouble.broken_by(), trouble.uncaught()
    if forked.in_child:
        end_child(status or int(uncaught is not None))
        return
    if uncaught is not None:  # somebody else's excepthook was called: a library has put one in the place of ours
        error, trace = uncaught
        _on_exception(type(error), error, trace)
    if is_finalized():
        return
    if status != 0:
        is_consequence = trouble.exit_is_consequence()
        _fail(SystemExit(status), f"called sys.exit({status})\n", status=status, is_consequence=is_consequence)
    if broken_by is not None:
        is_consequence = issubclass(broken_by, ReplicaFailedError)
        _fail(ReplicaError(_CAUGHT_IN_A_STEP.strip()), _CAUGHT_IN_A_STEP, is_consequence=is_consequence)
    _say_goodbye([communicator for communicator in _communicators() if communicator.size > 1])
    if open_communicators.has_lost_replicas():
        end_without_mpi(0)  # Finalize would wait for the dead


def _fail(error: BaseException, text: str, *, status: int = 1, is_consequence: bool = False) -> NoReturn:
    """Tell the others of a failure, print it if it is the first, and end the job.

    Args:
        error: what happened.
        text: what is printed of it.
        status: what this process ends with.
        is_consequence: whether it is what this replica was told of another's failure.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C must not break this off
    is_short = isinstance(error, KeyboardInterrupt) or trouble.broken_by() is not None
    deadline = time.monotonic() + (BROKEN_STEP_SECONDS if is_short else OFFER_SECONDS)
    try:
        is_consequence = _tell_others(error, deadline, is_consequence=is_consequence)
    except Exception as trouble_in_telling:  # whatever keeps the others from being told, the job must end
        text = f"{text.rstrip()}\n(the others could not be told: {trouble.describe(trouble_in_telling)})\n"
    if is_consequence:
        end_job("stopped, since another replica failed\n", status, is_first=False)
    end_job(text, status)


def _tell_others(error: BaseException, deadline: float, *, is_consequence: bool) -> bool:
    """Tell the others of a failure; return whether it is the consequence of another replica's, which came first."""
    communicators = [] if is_finalized() else open_communicators.opened()
    communicators = [communicator for communicator in communicators if communicator.size > 1]
    is_agreed = False
    for communicator in communicators:
        first = _announce(communicator, error, deadline, is_consequence)
        if first != communicator.index and (first is not None or is_consequence):
            # Another replica's failure came first: it prints and ends the job; this one must not be quicker. After a
            # Ctrl-C that one first gives way to others that were interrupted too.
            time.sleep(2 * OFFER_SECONDS)
            is_consequence = True
        is_agreed = is_agreed or first == communicator.index
    if isinstance(error, KeyboardInterrupt) and not is_agreed:
        give_way(OFFER_SECONDS)
    if not is_consequence:
        for communicator in communicators:
            communicator.fail(error)
    return is_consequence


def _announce(communicator: Communicator, error: BaseException, deadline: float, is_consequence: bool) -> int | None:
    from distopt.distribute.agreement.goodbye import announce_failure  # now, where it is loaded already

    return announce_failure(communicator, error, deadline, is_consequence=is_consequence)


def _say_goodbye(communicators: list[Communicator]) -> None:
    """Wait until all have ended; where another one has failed, let it end the job."""
    from distopt.distribute.agreement.goodbye import say_goodbye

    try:
        failed = say_goodbye(*communicators, patience=2 * OFFER_SECONDS)
    except ReplicaFailedError as heard:
        failed = heard.replica_index
    except StalledError as error:
        end_job(f"{trouble.describe(error)}\n", status=1)
    except Exception:  # whatever keeps the replicas from agreeing on the end, the job must end
        end_job("has ended, but the others did not follow: the job is over\n", status=1)
    if failed is not None:
        time.sleep(2 * OFFER_SECONDS)
        end_job("has ended early\n", status=1, is_first=False)


def _communicators() -> list[Communicator]:
    """Every communicator in use, and that of the job, so that nobody waits for it in vain; some of it may be dead."""
    used = open_communicators.opened()
    if open_communicators.has_lost_replicas() or does_without_mpi():
        return used
    from distopt.distribute.strategy import default_strategy

    job = default_strategy(current_replica()).communicator
    return [*(each for each in used if each is not job), job]
