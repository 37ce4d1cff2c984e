"""The clock while MPI is initialised, which waits for all replicas: one that hangs before would keep the others.

MPI is initialised when ``mpi4py.MPI`` is imported, by distopt or by the person's program. Until all replicas are there,
mpi4py keeps the interpreter's lock, and no Python runs in this process. ``distopt run`` is told of the beginning and of
the end, and keeps the clock for the replicas on its host. Elsewhere a thread of faulthandler, which needs no lock, ends
the process after the longest of the deadlines, and prints where it is.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from distopt.process.launcher import launched, tell_distopt_run
from distopt.process.launcher_watch import ending_with_parent
from distopt.settings import DEADLINES, RUN_DIR

WAITING, JOINED = b"w", b"j"
"""The words to ``distopt run``: this process initialises MPI, or has done it."""

_MODULE = "mpi4py.MPI"

ASKING = getattr(signal, "SIGRTMAX", 64) - 4
"""The signal by which ``distopt run`` asks a replica for its stacks."""

_STDERR = 2


def stack_file(folder: str | os.PathLike[str], replica: int) -> str:
    """Return the file in which a replica answers with its stacks; it is there when the replica can be asked."""
    return os.path.join(folder, f"stacks-{replica}.txt")


def install_clock() -> None:
    """Watch over the import of mpi4py, if that is still to come; let ``distopt run`` ask for this process's stacks."""
    sys.meta_path.insert(0, _Finder())
    launch, folder = launched(), RUN_DIR.read()
    if launch is not None and folder:
        path = stack_file(folder, launch.rank)
        with suppress(OSError):  # on other hosts there is no such folder
            file = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
            faulthandler.register(ASKING, file, all_threads=True)
            os.replace(path + ".new", path)


class _Finder:
    """Finds mpi4py.MPI as the others do, and puts the clock around its execution."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = _timed(loader.exec_module)
        return spec


def _timed(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def execute_with_clock(module: ModuleType) -> None:
        with ending_with_parent(), _clock():
            wait_in_MPI_Init_for_all_replicas(execute, module)

    return execute_with_clock


def wait_in_MPI_Init_for_all_replicas(execute: Callable[[ModuleType], None], module: ModuleType) -> None:  # noqa: N802
    """Initialise MPI. The name is for those who find it in the stack of a process that waited too long."""
    execute(module)


@contextmanager
def _clock() -> Iterator[None]:
    if tell_distopt_run(WAITING):
        yield
        tell_distopt_run(JOINED)
        return
    from distopt.distribute.agreement.checks import Deadlines  # where MPI begins: importing distopt is quick

    if launched() is None:
        yield
        return
    faulthandler.dump_traceback_later(Deadlines.from_environment(DEADLINES).end, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
