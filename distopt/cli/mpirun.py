"""Finds the ``mpirun`` that belongs to the MPI library of mpi4py, and the flags that it needs on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distopt.distribute.transports.mpi_library import no_mpi_library
from distopt.errors import DistoptError, MissingExtraError
from distopt.process.launcher import scrubbed_environment
from distopt.program import bootstrap
from distopt.settings import THREADS

_FAMILIES = (("Open MPI", "openmpi"), ("HYDRA", "mpich"), ("MPICH", "mpich"), ("Intel", "mpich"))
_NAMES = ("mpirun", "mpiexec", "mpirun.openmpi", "mpirun.mpich")
_ALLOCATIONS = ("SLURM_JOB_ID", "PBS_NODEFILE", "LSB_HOSTS", "PE_HOSTFILE")


@dataclass(frozen=True)
class Program:
    """A library or a launcher of one MPI family (``mpich`` or ``openmpi``)."""

    path: Path
    family: str
    version: str

    def __str__(self) -> str:
        name = {"openmpi": "Open MPI", "mpich": "MPICH"}.get(self.family, "an unknown MPI")
        return f"{name} {self.version}"


def mpi_library() -> Program:
    """Ask mpi4py which MPI library it loads, in another process, so that this process stays without MPI.

    Raises:
        MissingExtraError: mpi4py is not installed.
        DistoptError: mpi4py finds no MPI library.
    """
    path, version = _ask_mpi4py("--mpi-library"), _ask_mpi4py("--mpi-lib-version")
    return Program(Path(path), *_family_and_version(version))


def find_mpirun(library: Program) -> Program:
    """Return the launcher of the library's own installation, else one of its family on PATH.

    Raises:
        DistoptError: there is no such launcher.
    """
    others = []
    for path in _candidates(library.path):
        program = describe_launcher(path)
        if program.family == library.family:
            return program
        others.append(f"{program} ({path})")
    found = f"only {', '.join(others)}" if others else "none"
    raise DistoptError(
        f"no mpirun belongs to the MPI library that mpi4py loads, {library} ({library.path}): found {found}; "
        "install an MPI with its mpirun in this environment (pip install mpich), or load the cluster's module"
    )


def describe_launcher(path: Path) -> Program:
    """Return the family and version that a launcher prints."""
    answer = subprocess.run(
        [path, "--version"],
        capture_output=True,
        text=True,
        env=scrubbed_environment(),
        timeout=60,
        check=False,
    )
    return Program(path, *_family_and_version(answer.stdout + answer.stderr))


def flags(family: str, replicas: int) -> list[str]:
    """Return the options under which the launcher starts this many replicas here.

    MPICH needs no options. Open MPI needs some, because by default it refuses to run as root, counts cores and not
    hardware threads, and binds each replica to one core, which all threads of the replica would then share. In an
    allocation of a batch system, the system decides how many replicas may start.
    """
    if family != "openmpi":
        return []
    options = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    if not any(name in os.environ for name in _ALLOCATIONS):
        options += ["--oversubscribe"]
    if _threads() > 1 or replicas > len(os.sched_getaffinity(0)):
        options += ["--bind-to", "none"]
    return options


def replica_command(runner: str, arguments: Sequence[str]) -> list[str]:
    """Return what the launcher starts: Python, with a text that knows the end of a job, and then runs the program.

    Args:
        runner: the module whose ``main`` gets the arguments.
        arguments: what the runner gets, whatever characters they hold.
    """
    text = Path(bootstrap.__file__).read_text(encoding="utf-8")
    return [sys.executable, "-c", text, *(f"={argument}" for argument in (runner, *arguments))]


def _threads() -> int:
    """Return the threads per replica that the environment asks for (``OMP_NUM_THREADS`` may be a list)."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(THREADS.read(), int(first) if first.isdecimal() else 1)


def _ask_mpi4py(question: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", "mpi4py", question],
        capture_output=True,
        env=scrubbed_environment(),
        timeout=60,
        check=False,
    )
    if answer.returncode == 0:
        return answer.stdout.decode(errors="replace").strip("\0\n ")
    message = answer.stderr.decode(errors="replace")
    if "No module named mpi4py" in message:
        raise MissingExtraError("mpi4py", "mpi", "starting replicas with MPI")
    reason = message.strip().splitlines()[-1] if message.strip() else "nothing"
    raise no_mpi_library(reason)


def _family_and_version(text: str) -> tuple[str, str]:
    family = next((family for mark, family in _FAMILIES if mark.lower() in text.lower()), "unknown")
    version = re.search(r"\d+\.\d+(\.\w+)*", text)
    return family, version.group() if version else "of unknown version"


def _candidates(library: Path) -> Iterator[Path]:
    """Yield launchers in the ``bin`` folders above the library (as named, and as linked to), then on PATH."""
    folders = dict.fromkeys(parent / "bin" for path in (library, library.resolve()) for parent in path.parents)
    search = [str(folder) for folder in folders if folder.is_dir()] + os.get_exec_path()
    seen = set()
    for folder in search:
        for name in _NAMES:
            found = shutil.which(name, path=folder)
            if found and found not in seen:
                seen.add(found)
                yield Path(found)
