"""The MPI library of a job: mpi4py is imported, which initialises MPI, at the first use."""

from __future__ import annotations

import functools
from typing import Any

from distopt.errors import (
    DeadCommunicatorError,
    InvalidArgumentError,
    LauncherMismatchError,
    MissingExtraError,
)
from distopt.process import forked
from distopt.process.launcher import launched
from distopt.process.launcher_watch import ending_with_parent, watch_launcher


@functools.cache
def load_mpi() -> Any:
    """Import mpi4py, which initialises MPI, and check that the library is the launcher's.

    Raises:
        MissingExtraError: mpi4py is not installed.
        InvalidArgumentError: the script has forbidden to initialise MPI, and has not done it itself.
        DeadCommunicatorError: the script has finalised MPI.
        LauncherMismatchError: the launcher started N replicas and the library sees another number.
        ForkedProcessError: this process was forked from a replica.
    """
    if forked.in_child:
        forked.refuse("a replica")
    watch_launcher()
    try:
        with ending_with_parent():
            from mpi4py import MPI
    except ImportError as error:
        raise MissingExtraError("mpi4py (or an MPI library for it)", "mpi", "running under MPI") from error
    _check_initialised(MPI)
    launch = launched()
    if launch is not None and launch.size != MPI.COMM_WORLD.size:
        library = MPI.Get_library_version().rstrip("\0").splitlines()[0]
        raise LauncherMismatchError(
            f"the launcher ({launch.launcher}) started {launch.size} processes, but the MPI library in use "
            f"({library}) sees {MPI.COMM_WORLD.size}: they do not belong together, and each process would train "
            "alone. Use the mpirun of that library ('distopt run' finds it), or set MPI4PY_LIBMPI to the "
            "launcher's libmpi; 'distopt doctor' shows both."
        )
    return MPI


def _check_initialised(mpi: Any) -> None:
    """Refuse an MPI that is not initialised, or no more: its first operation would end the process without a word."""
    if not mpi.Is_initialized():
        raise InvalidArgumentError(
            "a replica of this job needs MPI, and the script has set mpi4py.rc.initialize = False, so MPI is not "
            "initialised. Leave that line out, or call MPI.Init_thread() before the first use of distopt, and "
            "MPI.Finalize() at the end of the script"
        )
    if mpi.Is_finalized():
        raise DeadCommunicatorError(
            "the script has called MPI.Finalize(), and distopt needs MPI after it: call it at the end of the script, "
            "or leave it out (it is done at exit)"
        )


def refuse_intercommunicator(comm: Any, owner: str) -> None:
    """Refuse a communicator between two groups of processes.

    Raises:
        InvalidArgumentError: it is one.
    """
    if comm.Is_inter():
        raise InvalidArgumentError(
            f"{owner}(comm): this is an intercommunicator, and each of its two sides would train alone: pass "
            "comm.Merge(), which has the processes of both"
        )
