"""The MPI library of a job: mpi4py is imported, which initialises MPI, at the first use."""

from __future__ import annotations

import functools
import warnings
from typing import Any

from distopt.errors import (
    DeadCommunicatorError,
    DistoptError,
    InvalidArgumentError,
    LauncherMismatchError,
    MissingExtraError,
)
from distopt.process import forked
from distopt.process.launcher import launched
from distopt.process.launcher_watch import watch_launcher


@functools.cache
def load_mpi() -> Any:
    """Import mpi4py, which initialises MPI, and check that the library is the launcher's.

    Raises:
        MissingExtraError: mpi4py is not installed.
        DistoptError: mpi4py finds no MPI library.
        InvalidArgumentError: the script has forbidden to initialise MPI, and has not done it itself.
        DeadCommunicatorError: the script has finalised MPI.
        LauncherMismatchError: the launcher started N replicas and the library sees another number.
        ForkedProcessError: this process was forked from a replica.
    """
    if forked.in_child:
        forked.refuse("a replica")
    watch_launcher()
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise MissingExtraError("mpi4py", "mpi", "running under MPI") from error
    except RuntimeError as error:
        raise no_mpi_library(str(error)) from error
    _check_initialised(MPI)
    _check_launcher(MPI)
    return MPI


def _check_launcher(mpi: Any) -> None:
    launch, size = launched(), mpi.COMM_WORLD.size
    if launch is None:
        return
    library = mpi.Get_library_version().rstrip("\0").splitlines()[0]
    if not launch.may_be(size):
        of_slurm = ", or another srun --mpi=... ('srun --mpi=list' lists them)" if launch.launcher == "slurm" else ""
        raise LauncherMismatchError(
            f"the launcher ({launch.launcher}) started {launch}, but the MPI library in use ({library}) sees {size}: "
            "they do not belong together, and each process would train alone. Use the mpirun of that library "
            f"('distopt run' finds it){of_slurm}, or set MPI4PY_LIBMPI to the launcher's libmpi; "
            "'distopt doctor' shows both."
        )
    if launch.size is None and size == 1:
        warnings.warn(
            f"a launcher ({launch.launcher}) started this process, perhaps with others, but the MPI library in use "
            f"({library}) sees no others: if there are some, use the mpirun of that library ('distopt run' finds it)",
            stacklevel=2,
        )


def no_mpi_library(reason: str) -> DistoptError:
    """Return the error for an mpi4py that finds no MPI library.

    Args:
        reason: what mpi4py said.
    """
    return DistoptError(
        "mpi4py finds no MPI library: install one in this environment (pip install mpich), or load the "
        f"cluster's module; mpi4py said: {reason}"
    )


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
