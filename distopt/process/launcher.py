"""The start of this process, read from the environment alone: no MPI library is loaded."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from distopt.settings import REPLICA_PID, RUN_DIR

DAEMONS = ("hydra_pmi", "mpiexec", "mpirun", "orted", "orterun", "prted", "prterun", "slurmstepd")
"""The names of the programs that start replicas, or the beginnings of their names."""

_FIRST_SPECIAL_STEP = 0xFFFFFFF0  # Slurm's numbers for the batch script, an interactive shell, ...
_LAST_FILE = 500
_STEP_VARIABLE = (
    rf"{REPLICA_PID.name}|{RUN_DIR.name}|(OMPI|PMIX|PRTE|PMI|MPIR|MPI_LOCAL|HYDI|HYD_)\w*"
    r"|SLURM_(STEP|SRUN|LAUNCH|CPU_BIND|PMIX|MPI_TYPE|PROCID|LOCALID|NODEID|GTIDS|TASK_PID|DISTRIBUTION)\w*"
)
_SETTING = r"OMPI_ALLOW_RUN_AS_ROOT\w*|OMPI_MCA_(pml|btl|mtl|osc|smsc|coll)(_\w+)?|(PRTE|PMIX)_MCA_\w+|MPIR_CVAR_\w+"


@dataclass(frozen=True)
class Launch:
    """One job step: who started this process, as which of how many."""

    launcher: str
    size: int
    rank: int


def launched() -> Launch | None:
    """Return the job step that this process is a replica of; None if a person or a replica started it.

    The first call in a replica marks the environment, so that its children get None although they inherit
    the launcher's variables; under ``distopt run`` it also reports to that command.

    Example:
        >>> launched() is None  # nothing like mpirun or srun started the doctests
        True
    """
    step = _step(os.environ)
    if step is None or _is_child_of_replica():
        return None
    if REPLICA_PID.read() != os.getpid():
        os.environ[REPLICA_PID.name] = str(os.getpid())
        _report_to_distopt_run(step)
    return step


def scrubbed_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a copy without what a launcher tells its replicas, fit for starting a job of one's own.

    Settings that people make (``OMPI_MCA_btl``, ``PRTE_MCA_...``, ``MPIR_CVAR_...``) stay.

    Args:
        environment: what to copy (``os.environ`` if None); not modified.

    Example:
        >>> scrubbed_environment({"PMI_RANK": "3", "OMPI_MCA_btl": "self,sm", "HOME": "/home/ada"})
        {'OMPI_MCA_btl': 'self,sm', 'HOME': '/home/ada'}
    """
    source = os.environ if environment is None else environment
    return {
        name: value
        for name, value in source.items()
        if re.fullmatch(_SETTING, name) or not re.fullmatch(_STEP_VARIABLE, name)
    }


def _step(environment: Mapping[str, str]) -> Launch | None:
    """The innermost launcher comes first: mpirun inside a Slurm step inherits that step's variables."""
    if "OMPI_COMM_WORLD_RANK" in environment:
        size, rank = environment["OMPI_COMM_WORLD_SIZE"], environment["OMPI_COMM_WORLD_RANK"]
        return Launch("openmpi", int(size), int(rank))
    if "PMI_RANK" in environment and "PMI_SIZE" in environment:
        name = "mpich" if "HYDI_CONTROL_FD" in environment or "SLURM_STEP_ID" not in environment else "slurm"
        return Launch(name, int(environment["PMI_SIZE"]), int(environment["PMI_RANK"]))
    step_id = int(environment.get("SLURM_STEP_ID", _FIRST_SPECIAL_STEP))
    if step_id < _FIRST_SPECIAL_STEP and "SLURM_PROCID" in environment:
        size, rank = environment["SLURM_STEP_NUM_TASKS"], environment["SLURM_PROCID"]
        return Launch("slurm", int(size), int(rank))
    return None


def _is_child_of_replica() -> bool:
    """Return whether a replica started this process, directly or not, with no launcher in between."""
    replica = REPLICA_PID.read()
    if not replica or replica == os.getpid():
        return False
    if not os.path.exists("/proc/self/stat"):
        return replica == os.getppid()
    for pid, name in ancestors():
        if pid == replica:
            return True
        if name.startswith(DAEMONS):
            return False
    return False


def ancestors() -> Iterator[tuple[int, str]]:
    """Return process id and name of the parent, its parent and so on, as far as /proc shows them."""
    pid = os.getppid()
    while pid > 0:
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                head, _, tail = file.read().rpartition(")")
        except OSError:
            return
        yield pid, head.partition("(")[2]
        pid = int(tail.split()[1])


def _report_to_distopt_run(step: Launch) -> None:
    directory = RUN_DIR.read()
    if directory and os.path.isdir(directory):  # replicas on other hosts do not see it
        path = os.path.join(directory, f"replica-{step.rank}.json")
        with suppress(OSError):  # a full disk: that command knows less then
            with open(path + ".new", "w", encoding="utf-8") as file:
                file.write(f'{{"pid": {os.getpid()}, "host": "{os.uname().nodename}"}}\n')
            os.replace(path + ".new", path)
        with suppress(OSError):  # its reader is on one host only
            pipe = os.open(os.path.join(directory, f"alive-{step.rank}"), os.O_WRONLY | os.O_NONBLOCK)
            # Linux lets go of a dead process's files from the last to the first: before the launcher's own.
            fcntl.fcntl(pipe, fcntl.F_DUPFD_CLOEXEC, _LAST_FILE)
            os.close(pipe)
