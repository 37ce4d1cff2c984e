"""Timing rivals fairly: in turns, in one run, after a warm-up; medians; one printed table."""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Mapping
from types import ModuleType

FULL = os.environ.get("DISTOPT_BENCH") == "full"
"""Whether sizes are those of the tables in the README; otherwise tiny, to show that the benchmark runs."""


def torch_if_installed() -> ModuleType | None:
    """Return PyTorch on one thread where this environment has it (``make test-frameworks``, ``make bench``)."""
    if importlib.util.find_spec("torch") is None:
        return None
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    return torch


def medians(
    rivals: Mapping[str, Callable[[], object]], repeats: int, *, inner: int = 1, barrier: Callable[[], object] = int
) -> dict[str, float]:
    """Return the median seconds of each rival's call, measured in turns.

    Args:
        rivals: what to time, by name.
        repeats: how often each is timed.
        inner: calls per timing, for what is too short for the clock.
        barrier: lets replicas begin and end together.
    """
    for call in rivals.values():
        call()
        call()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, call in rivals.items():
            barrier()
            start = time.perf_counter()
            for _ in range(inner):
                call()
            barrier()
            times[name].append((time.perf_counter() - start) / inner)
    return {name: statistics.median(values) for name, values in times.items()}


def show(title: str, unit: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table: a row a case, a column a rival."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    print(f"\n{title} [{unit}; {os.cpu_count()} cores; medians of turns in one run]")
    print(f"{'':<26}" + "".join(f"{name:>22}" for name in names))
    for case, row in rows.items():
        print(f"{case:<26}" + "".join(f"{row[name]:>22.4g}" if name in row else f"{'-':>22}" for name in names))
