"""Timing rivals fairly: in turns, in one run, after a warm-up; medians; tables that are printed and kept."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

FULL = os.environ.get("DISTOPT_BENCH") == "full"
"""Whether sizes are those of the tables in docs/figures.md; otherwise tiny, to show that the benchmark runs."""

HAS_TORCH = importlib.util.find_spec("torch") is not None
"""Whether this environment has PyTorch (``make test-frameworks``, ``make bench``)."""

RESULTS = Path(__file__).with_name("results")
"""Where tables of a full run are kept, for ``plot.py``."""

Rows = Mapping[str, Mapping[str, float]]


def torch_if_installed() -> ModuleType | None:
    """Return PyTorch on one thread where this environment has it."""
    if not HAS_TORCH:
        return None
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    return torch


def start_gloo(world: Any) -> ModuleType:
    """Return ``torch.distributed`` on Gloo, over the loopback interface, with the ranks of an MPI communicator."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    gloo = importlib.import_module("torch.distributed")
    store = gloo.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if world.rank == 0 else None
    port = world.bcast(store and store.port)
    gloo.init_process_group(
        "gloo", store=store or gloo.TCPStore("127.0.0.1", port), rank=world.rank, world_size=world.size
    )
    return gloo


def medians(
    rivals: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    inner: int = 1,
    barrier: Callable[[], object] = int,
    turn: Callable[[str], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> dict[str, float]:
    """Return the median seconds of each rival's call, measured in turns.

    Args:
        rivals: what to time, by name.
        repeats: how often each is timed.
        inner: calls per timing, for what is too short for the clock.
        barrier: lets replicas begin and end together.
        turn: makes what surrounds a rival's turn, from its name; not timed.
    """
    for name, call in rivals.items():
        with turn(name):
            call()
            call()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, call in rivals.items():
            with turn(name):
                barrier()
                start = time.perf_counter()
                for _ in range(inner):
                    call()
                barrier()
                times[name].append((time.perf_counter() - start) / inner)
    return {name: statistics.median(values) for name, values in times.items()}


def show(title: str, unit: str, rows: Rows, how: str = "medians of turns in one run") -> None:
    """Print a table: a row a case, a column a rival."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max(14, *(len(name) + 2 for name in names))
    print(f"\n{title} [{unit}; {os.cpu_count()} cores; {how}]")
    print(f"{'':<26}" + "".join(f"{name:>{width}}" for name in names))
    for case, row in rows.items():
        print(
            f"{case:<26}" + "".join(f"{row[name]:>{width}.4g}" if name in row else f"{'-':>{width}}" for name in names)
        )


def keep(name: str, rows: Rows, **about: object) -> None:
    """Store the table of a full run as JSON, with what it was measured on."""
    if FULL:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(
            json.dumps({"machine": machine(), **about, "rows": rows}, indent=1) + "\n"
        )


def machine() -> dict[str, object]:
    """Return what figures were measured on."""
    cpu = next((line.partition(":")[2] for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    return {
        "cpu": cpu.strip(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def available_memory() -> int:
    """Return the bytes that programs can still take on this machine."""
    line = next(line for line in _lines("/proc/meminfo") if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def held_memory() -> int:
    """Return the bytes that this process holds (PSS): what n processes share counts as an n-th in each.

    Without mapped files, for libraries are shared with programs that come and go; with memory files that are open
    and not mapped, which PSS does not see.
    """
    lines = [line for line in _lines("/proc/self/smaps_rollup") if line.startswith(("Pss_Anon:", "Pss_Shmem:"))]
    mapped = {int(line.split()[4]) for line in _lines("/proc/self/maps")}
    files = [path.stat() for path in Path("/proc/self/fd").iterdir() if _is_memory_file(path)]
    unmapped = sum(file.st_blocks for file in files if file.st_ino not in mapped)
    return sum(int(line.split()[1]) for line in lines) * 1024 + unmapped * 512


def _is_memory_file(descriptor: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):  # that of the listing itself
        return os.readlink(descriptor).startswith(("/memfd:", "/dev/shm/"))
    return False


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def misses(targets: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return a sentence for every target that was not reached.

    Args:
        targets: what was measured and the most it may be, by what it is.
    """
    return [f"{what}: {value:.3g}, at most {limit:g}" for what, (value, limit) in targets.items() if not value <= limit]
