"""The start of this process, read from the environment alone: no MPI library is loaded."""

from __future__ import annotations

import fcntl
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from distopt.errors import LauncherMismatchError
from distopt.settings import REPLICA_PID, RUN_DIR

DAEMONS = ("hydra_pmi", "mpiexec", "mpirun", "orted", "orterun", "prted", "prterun", "slurmstepd")
"""The names of the programs that start replicas, or the beginnings of their names."""

_FIRST_SPECIAL_STEP = 0xFFFFFFF0  # Slurm's numbers for the batch script, an interactive shell, ...
_LAST_FILE = 500
_STEP_VARIABLE = (
    rf"{REPLICA_PID.name}|{RUN_DIR.name}|(OMPI|PMIX|PRTE|PMI|MPIR|MPI_LOCAL|HYDI|HYD_|MV2_COMM|MPISPAWN_|JSM_|PALS_)\w*"
    r"|FLUX_(JOB_ID|JOB_SIZE|JOB_NNODES|TASK_RANK|TASK_LOCAL_ID)"
    r"|SLURM_(STEP|SRUN|LAUNCH|CPU_BIND|PMIX|MPI_TYPE|PROCID|LOCALID|NODEID|GTIDS|TASK_PID|DISTRIBUTION)\w*"
)
_SETTING = r"OMPI_ALLOW_RUN_AS_ROOT\w*|OMPI_MCA_(pml|btl|mtl|osc|smsc|coll)(_\w+)?|(PRTE|PMIX)_MCA_\w+|MPIR_CVAR_\w+"

_BEFORE_SLURM = (
    ("mvapich", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("jsrun", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK"),
    ("flux", "FLUX_JOB_SIZE", "FLUX_TASK_RANK"),
)
_WITHOUT_SIZE = (("pals", "PALS_RANKID"), ("pmix", "PMIX_RANK"))

_pipes: list[int] = []
"""The pipe to ``distopt run``, if that is on this host: it ends with this process."""


@dataclass(frozen=True)
class Launch:
    """One job step: who started this process, as which of how many."""

    launcher: str
    size: int | None
    """None where the launcher does not say."""
    rank: int

    @property
    def least_size(self) -> int:
        """Return how many processes there are at least."""
        return self.rank + 1 if self.size is None else self.size

    def may_be(self, size: int) -> bool:
        """Return whether a library that sees so many processes can belong to this launcher."""
        return self.least_size <= size and self.size in (None, size)

    def __str__(self) -> str:
        return f"{'at least ' if self.size is None else ''}{self.least_size} processes"


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


def tell_distopt_run(word: bytes) -> bool:
    """Tell ``distopt run`` where this process is in its life; return whether it can hear."""
    for pipe in _pipes:
        with suppress(OSError):  # it is gone
            os.write(pipe, word)
            return True
    return False


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

    def launch(name: str, size: str, rank: str) -> Launch | None:
        numbers = _number_in(environment, size), _number_in(environment, rank)
        return None if numbers[0] is None or numbers[1] is None else Launch(name, numbers[0], numbers[1])

    of_pmi = "mpich" if "HYDI_CONTROL_FD" in environment or "SLURM_STEP_ID" not in environment else "slurm"
    found = (
        launch("openmpi", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
        or launch(of_pmi, "PMI_SIZE", "PMI_RANK")
        or next(filter(None, (launch(*names) for names in _BEFORE_SLURM)), None)
    )
    if found is None and _in_slurm_step(environment):
        found = launch("slurm", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if found is not None:
        return found
    ranks = ((name, _number_in(environment, rank)) for name, rank in _WITHOUT_SIZE)
    return next((Launch(name, None, rank) for name, rank in ranks if rank is not None), None)


def _in_slurm_step(environment: Mapping[str, str]) -> bool:
    """Return whether Slurm started a process in a step, not in a batch script or a shell."""
    step = _number_in(environment, "SLURM_STEP_ID")
    return step is not None and step < _FIRST_SPECIAL_STEP


def _number_in(environment: Mapping[str, str], name: str) -> int | None:
    """Return the number in a variable of the environment; None where there is none."""
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None


def refuse_unserved_launcher() -> None:
    """Raise, or warn, where this process is to be one replica and was started as one of several.

    Raises:
        LauncherMismatchError: torchrun started it.
    """
    environment = os.environ
    if _is_child_of_replica():
        return
    processes = _number_in(environment, "WORLD_SIZE") or 1
    tasks = _number_in(environment, "SLURM_NTASKS") or 1
    if processes > 1 and {"RANK", "LOCAL_RANK"} <= environment.keys():
        if _is_torchrun(environment):
            raise LauncherMismatchError(
                f"torchrun started this process as one of {processes}, and distopt does not serve torchrun yet: each "
                f"process would train alone: {_cure(processes)}"
            )
        _warn(f"a launcher has set WORLD_SIZE={processes}, RANK and LOCAL_RANK", processes)
    elif tasks > 1 and "SLURM_JOB_ID" in environment and not _in_slurm_step(environment):
        _warn(f"this is the script or shell of a Slurm allocation for {tasks} tasks, and none of the tasks", tasks)


def _is_torchrun(environment: Mapping[str, str]) -> bool:
    return any(name.startswith("TORCHELASTIC_") for name in environment)


def _warn(found: str, processes: int) -> None:
    warnings.warn(f"{found}; this program is one replica: if several are meant, {_cure(processes)}", stacklevel=3)


def _cure(processes: int) -> str:
    return f"start it by 'distopt run -n {processes} script.py' or 'mpirun -n {processes} python script.py'"


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
            _pipes.append(fcntl.fcntl(pipe, fcntl.F_DUPFD_CLOEXEC, _LAST_FILE))
            os.close(pipe)
