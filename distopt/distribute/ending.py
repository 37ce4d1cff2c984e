"""How a replica that a launcher started ends, so that nobody waits for it.

* It returned: at exit it says goodbye in place of a header and waits for the others; when all have said it, MPI
  is finalised. Others that are still stepping get ``ReplicaLeftError`` instead of waiting for ever.
* It failed (an exception in any thread, ``sys.exit(n)``): it offers its failure in place of a header for
  ``OFFER_SECONDS``, so that the others raise too. The first failure alone prints its traceback, last; then Abort.
* It failed before MPI was initialised: the others can't be told, so it ends by a signal, which every launcher
  takes as the end of the job.

After a failure MPI is never finalised: that would wait for the others.

At exit every replica says goodbye on the communicators that it used and, the last, on that of the whole job, used or
not: those who trained with a part of the job, those who stayed out and those who left too early all meet there. So
a job in which some processes never import distopt must call ``MPI.Finalize()`` at the end of the others' script.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from distopt.distribute.launcher import RUN_DIRECTORY, launched

OFFER_SECONDS = 3.0
"""How long a failing replica offers its failure to the others before it ends the job."""

BROKEN_STEP_SECONDS = 1.0
"""The same after a failure inside a step, where the others wait for a payload and can hardly be told."""

DRAIN_SECONDS = 0.25
"""How long the launcher is given to pass on what was printed."""

STAGGER_SECONDS = 0.4
"""How much later each replica prints a failure from before MPI was initialised."""

_exit_status = 0
_step_broken = False
_process_id = 0


def install() -> None:
    """Install the hooks in a process that a launcher started; elsewhere do nothing. Starts nothing."""
    global _process_id
    if launched() is None:
        return
    _process_id = os.getpid()
    sys.excepthook = _on_exception
    threading.excepthook = _on_thread_exception
    sys.exit = _exit
    atexit.register(_at_exit)


def forget_trouble() -> None:
    """Note that all replicas go on together: an earlier failure in a step was caught."""
    global _step_broken
    _step_broken = False


def note_broken_step() -> None:
    """Note that this replica left a step in the middle: the others may wait for its part of the sum."""
    global _step_broken
    _step_broken = True


class _Exit(SystemExit):
    """Remembers the status when the interpreter itself asks for it, which means that nobody has caught the exit."""

    @property
    def code(self) -> Any:  # type: ignore[override]
        global _exit_status
        status = self.args[0] if self.args else None
        if sys._getframe().f_back is None:
            _exit_status = status if isinstance(status, int) else int(status is not None)
        return status


def _exit(status: Any = None, /) -> NoReturn:
    """``sys.exit``: nothing else tells an exit handler what the status was."""
    raise _Exit() if status is None else _Exit(status)


def _is_forked() -> bool:
    """Whether this is a child that inherited the hooks: it is no replica."""
    return os.getpid() != _process_id


def _on_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from distopt.errors import ReplicaFailedError

    if _is_forked():
        sys.__excepthook__(kind, error, trace)
        return
    if isinstance(error, KeyboardInterrupt):
        _fail("interrupted (Ctrl-C)\n", status=130)
    text = "".join(traceback.format_exception(kind, error, trace))
    _fail(text, is_consequence=isinstance(error, ReplicaFailedError))


def _on_thread_exception(args: threading.ExceptHookArgs) -> None:
    if _is_forked() or args.exc_type is SystemExit:
        threading.__excepthook__(args)
        return
    name = "?" if args.thread is None else args.thread.name
    text = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
    # The main thread may be inside an operation on the communicators: this one can't use them.
    _end_job(f"in thread {name!r}:\n{text}", status=1)


def _at_exit() -> None:
    if _is_forked() or _is_finalized():
        return
    if _exit_status != 0:
        _fail(f"called sys.exit({_exit_status})\n", status=_exit_status)
    if _step_broken:
        _fail("ended after a failure inside a step (it was caught); the others wait for it\n")
    for communicator in _communicators():
        if communicator.size > 1:
            _leave(communicator, None)


def _fail(text: str, *, status: int = 1, is_consequence: bool = False) -> NoReturn:
    """Offer the failure to the others, print it if it is the first, and end the job."""
    mpi = None if _is_finalized() else sys.modules.get("distopt.distribute.mpi")
    deadline = time.monotonic() + (BROKEN_STEP_SECONDS if _step_broken else OFFER_SECONDS)
    for communicator in [] if mpi is None else mpi.opened:
        if communicator.size > 1 and not _leave(communicator, text, deadline, is_consequence):
            # Another replica's failure came first: it prints and ends the job; this one must not be quicker.
            time.sleep(OFFER_SECONDS)
            is_consequence = True
    if is_consequence:
        _end_job("stopped, since another replica failed\n", status, is_first=False)
    _end_job(text, status)


def _leave(communicator: Any, failure: str | None, deadline: float | None = None, is_consequence: bool = False) -> bool:
    """Take part in the others' headers until all have ended; return whether this replica's failure is the first."""
    from distopt.distribute.header import Kind, end_round

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
        return not is_consequence
    first = min(range(len(kinds)), key=lambda r: (kinds[r] is not Kind.RAISED, kinds[r] is Kind.GOODBYE, r))
    if failure is None:
        time.sleep(2 * OFFER_SECONDS)
        _end_job("has ended early\n", status=1, is_first=False)
    return bool(first == communicator.index)


def _communicators() -> list[Any]:
    """Every communicator in use, and that of the job, so that nobody waits for it in vain."""
    from distopt.distribute.mpi import opened
    from distopt.distribute.strategy import default_strategy

    job = default_strategy().communicator
    return [*(used for used in opened if used is not job), job]


def _is_finalized() -> bool:
    """Whether the script has finalised MPI itself."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and bool(mpi.Is_finalized())


def _end_job(text: str, status: int, *, is_first: bool = True) -> NoReturn:
    """Print a failure under its replica's name and end every process of the job."""
    launch, mpi = launched(), sys.modules.get("mpi4py.MPI")
    index = 0 if launch is None else launch.rank
    if mpi is None:
        # The replicas can't agree on who was first: where all fail alike, the lowest one ends the job before the rest.
        time.sleep(min(index, 4) * STAGGER_SECONDS)
    message = f"\nReplica {index} failed: {text}" if "\n" not in text.strip() else f"\nReplica {index} failed:\n{text}"
    sys.stdout.flush()
    stream = sys.__stderr__ or sys.stderr  # libraries that wrap the excepthook may catch what goes to sys.stderr
    stream.write(message)
    stream.flush()
    if is_first:
        _leave_report(index, message)
    # A launcher drops what it has not read from its replicas' pipes when the job is aborted.
    time.sleep(DRAIN_SECONDS)
    if mpi is not None and mpi.Is_initialized() and not _is_finalized():
        mpi.COMM_WORLD.Abort(status)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(DRAIN_SECONDS)  # another thread may be the one that the signal reaches
    os._exit(status)


def _leave_report(index: int, message: str) -> None:
    """Leave the failure where ``distopt run`` looks for it, to print it last."""
    directory = os.environ.get(RUN_DIRECTORY)
    if directory:
        with contextlib.suppress(OSError):  # on another host than that of ``distopt run`` there is no such directory
            Path(directory, f"failure-{index}.txt").write_text(message.lstrip())
