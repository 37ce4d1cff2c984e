"""Checks of the machine for ``distopt doctor``: cores, threads, memory, packages."""

from __future__ import annotations

import math
import mmap
import os
import re
import shutil
import tempfile
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from distopt.cli.findings import Findings
from distopt.errors import DistoptError
from distopt.settings import THREADS

_SMALL_SHM = 64 << 20  # Docker's default; MPICH's replicas die by a signal when it is full


class Seat(NamedTuple):
    """The host of a replica, and the cores that the replica may use there."""

    host: str
    cores: tuple[int, ...]


def this_seat() -> Seat:
    """Return the seat of this process."""
    return Seat(os.uname().nodename, tuple(sorted(os.sched_getaffinity(0))))


def on_path(program: str) -> Path | None:
    """Return the file that the shell would start for this name."""
    found = shutil.which(program)
    return Path(found) if found else None


def cores(findings: Findings, replicas: list[Seat]) -> None:
    """Note the cores by affinity and by the container's limit, and how replicas share them."""
    here = this_seat()
    limit = _cgroup_cores(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    text = f"{len(here.cores)} of {os.cpu_count()} by affinity"
    findings.note("cores", text if math.isinf(limit) else f"{text}, {limit:g} by the container's limit")
    neighbours = [seat for seat in replicas if seat.host == here.host]
    share = min(len(set().union(*(seat.cores for seat in neighbours))), limit) / len(neighbours)
    crowded = "" if share >= 1 else ": more replicas than cores, they take turns"
    if len(replicas) > 1:
        findings.note("replicas", f"{len(replicas)}, {len(neighbours)} on this node ({share:.2g} cores each){crowded}")
    bound = defaultdict(list)
    for index, seat in enumerate(replicas):
        if len(seat.cores) == 1:
            bound[seat].append(index)
    for seat, indices in bound.items():
        if len(indices) > 1 and (os.cpu_count() or 1) > 1:
            names = ", ".join(map(str, indices))
            findings.problem(
                f"replicas {names} are all bound to core {seat.cores[0]} of {seat.host}; start with "
                "distopt run, or give mpirun --bind-to none, and look for taskset in what starts the job"
            )


def threads(findings: Findings) -> None:
    """Note the threads that libraries would use, and how many distopt gives each of several replicas."""
    import numba
    from threadpoolctl import threadpool_info

    pools = [f"{pool['internal_api']} {pool['num_threads']}" for pool in threadpool_info()]
    variable = f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'unset')}"
    findings.note("threads", ", ".join([variable, f"numba {numba.config.NUMBA_NUM_THREADS}", *pools]))
    try:
        findings.note("threads per replica", f"{THREADS.read()} if there are several ({THREADS.name})")
    except DistoptError as error:
        findings.problem(str(error))


def shared_memory(findings: Findings) -> None:
    """Check /dev/shm, which MPI libraries use on a node, and memfd."""
    disk = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
    size, free = (disk.f_frsize * disk.f_blocks, disk.f_frsize * disk.f_bavail) if disk else (0, 0)
    memfd = "works" if _memfd_works() else "does not work"
    findings.note("shared memory", f"/dev/shm {size / 1e9:.2f} GB, {free / 1e9:.2f} GB free; memfd {memfd}")
    if free < _SMALL_SHM:
        findings.problem(
            f"/dev/shm has {free / 1e6:.0f} MB free: MPI's replicas on one node may die by a signal; "
            "remove what old jobs left in /dev/shm; in Docker give --shm-size=1g",
        )


def kernel_cache(findings: Findings) -> None:
    """Check the folder that keeps compiled kernels."""
    from distopt.kernels.cache import cache_directory, make_directory

    folder = cache_directory()
    try:
        make_directory()
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        findings.note("kernel cache", str(folder))
        findings.problem(
            f"compiled kernels can't be kept: {error}; set DISTOPT_CACHE_DIR to a folder where only you can write",
        )
    else:
        findings.note("kernel cache", f"{folder} (writable)")


def packages(findings: Findings) -> None:
    """Note the versions of the packages that distopt needs, and of its extras."""
    for requirement in metadata.requires("distopt") or []:
        name, extra = _requirement(requirement)
        if extra == "dev":
            continue
        try:
            findings.note(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            target = f"distopt[{extra}]" if extra else name
            findings.note(name, f"not installed (pip install '{target}')")
            if not extra:
                findings.problem(f"distopt needs {name}, which is not installed: pip install {name}")


def _requirement(text: str) -> tuple[str, str]:
    """Return name and extra of a requirement, from its text in the package's metadata."""
    name, extra = re.match(r"[\w.-]+", text), re.search(r"extra == ['\"]([\w-]+)", text)
    assert name
    return name.group(), extra.group(1) if extra else ""


def _cgroup_cores(membership: Path, root: Path) -> float:
    """Return the smallest CPU quota, in cores, of this process's control group (version 2) and of those above it."""
    limit = math.inf
    group = next((line[3:] for line in _lines(membership) if line.startswith("0::")), "/")
    folder = root / group.strip("/")
    for place in (folder, *folder.parents):
        for line in _lines(place / "cpu.max"):
            quota, period = line.split()
            limit = min(limit, math.inf if quota == "max" else int(quota) / int(period))
    return limit


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _memfd_works() -> bool:
    try:
        descriptor = os.memfd_create("distopt-doctor")
        try:
            os.ftruncate(descriptor, mmap.PAGESIZE)
            with mmap.mmap(descriptor, mmap.PAGESIZE) as memory:
                memory[:1] = b"x"
        finally:
            os.close(descriptor)
    except (AttributeError, OSError):
        return False
    return True
