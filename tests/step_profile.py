"""How much Python one step of Adam is, on the replicas at hand, as ``sys.setprofile`` sees it.

Usage: ``mpirun -n 2 python tests/step_profile.py``; with PYTHONPATH it looks at another copy of distopt.

A replica that waits for another one asks again and again, and every question is a call: of many steps after a warm-up,
each of which is looked at by itself, the least on any replica is taken. That is a step in which it did not wait.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np

import distopt

PACKAGE = str(Path(distopt.__file__).parent)
SIZE, WARM_UP, STEPS = 1000, 5, 60
PAUSE = 2e-3
"""Seconds by which one replica after the other begins a step late, for the last one has nobody to wait for."""

LIMITS: Mapping[str, Mapping[str, int]] = {
    "Adam, 4 variables": {"files": 24, "changes": 117, "calls": 96},
    "legacy.Adam, 4 variables": {"files": 28, "changes": 149, "calls": 187},
    "Adam, 200 variables": {"calls": 292},
    "legacy.Adam, 200 variables": {"calls": 382},
}
"""The most that a step may take, by what it is."""

MADE_BY: Mapping[str, tuple[ModuleType, int]] = {
    "Adam, 4 variables": (distopt.optimizers, 4),
    "legacy.Adam, 4 variables": (distopt.optimizers.legacy, 4),
    "Adam, 200 variables": (distopt.optimizers, 200),
    "legacy.Adam, 200 variables": (distopt.optimizers.legacy, 200),
}
"""The family whose Adam makes the step, and over how many variables, by what the step is."""


@dataclass(frozen=True)
class Profile:
    """What happened in a step.

    Args:
        files: how many files of the package it entered.
        changes: how often a call or a return led to another of these files than the one before; the first counts.
        calls: how many Python functions were called, those of libraries too.
    """

    files: int
    changes: int
    calls: int


class Observer:
    """Counts what ``sys.setprofile`` tells of."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._last = ""
        self._changes = self._calls = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Take note of a call or a return: of the file in which the program goes on."""
        if event == "call":
            self._calls += 1
            self._go_on_in(frame)
        elif event == "return" and frame.f_back is not None:
            self._go_on_in(frame.f_back)

    def _go_on_in(self, frame: FrameType) -> None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE) and file != self._last:
            self._files.add(file)
            self._changes += 1
            self._last = file

    @property
    def profile(self) -> Profile:
        """What was seen so far."""
        return Profile(len(self._files), self._changes, self._calls)


def observe(step: Callable[[], object]) -> Profile:
    """Make one step under ``sys.setprofile``."""
    observer = Observer()
    before = sys.getprofile()
    sys.setprofile(observer)
    try:
        step()
    finally:
        sys.setprofile(before)
    return observer.profile


def profile_step(family: ModuleType, count: int) -> Profile:
    """Return the least of many steps of a family's Adam over so many dense variables, each seen by itself."""
    variables = [distopt.Variable(np.full(SIZE, 0.1, np.float32)) for _ in range(count)]
    pairs = [(np.full(SIZE, 1e-3, np.float32), variable) for variable in variables]
    optimizer = family.Adam(1e-3)

    def step() -> None:
        optimizer.apply_gradients(pairs)

    for _ in range(WARM_UP):
        step()
    seen = []
    for number in range(STEPS):
        if number % distopt.num_replicas() == distopt.replica_index():
            time.sleep(PAUSE)
        seen.append(astuple(observe(step)))
    of_all = distopt.all_gather(np.array(seen))
    return Profile(*of_all.min(axis=(0, 1)).tolist())


def excess(name: str, profile: Profile) -> dict[str, int]:
    """Return what is more than a step of this name may take."""
    return {what: value for what, value in asdict(profile).items() if value > LIMITS[name].get(what, value)}


def main() -> None:
    """Print the table, on replica 0."""
    distopt.print_once(f"{'':<28}{'files':>8}{'changes':>10}{'calls':>8}")
    for name, step in MADE_BY.items():
        profile = profile_step(*step)
        distopt.print_once(f"{name:<28}{profile.files:>8}{profile.changes:>10}{profile.calls:>8}")


if __name__ == "__main__":
    main()
