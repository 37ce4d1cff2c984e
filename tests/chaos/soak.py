"""Train for long, with lists that change, with many optimizers and strategies; print what the process holds.

Usage: ``mpirun -n 2 python soak.py STEPS OPTIMIZERS STRATEGIES``; replica 0 prints one JSON object.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mpi4py import MPI

import distopt
from distopt import Strategy, Variable
from distopt.distribute import MPICommunicator
from distopt.distribute.agreement.communicator import Communicator
from distopt.optimizers import SGD, Adam, legacy

SIZES = [5, 300, 1, 4097, 2000, 64, 9, 128, 33, 700]
LOOKS = 5
"""How often what the process holds is looked at, in each part; the first time is after the warm-up."""
FAMILIES = [
    lambda: SGD(0.5, momentum=0.5),
    lambda: Adam(0.1),
    lambda: legacy.Adam(0.1),
    lambda: Adam(0.1, use_ema=True),
]


def holdings() -> dict[str, int]:
    """Return what this process holds: KiB of memory that is its own, open files, mappings, threads, communicators."""
    gc.collect()
    memory = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return {
        "KiB": int(memory["Anonymous"].split()[0]) + int(memory["Shared_Dirty"].split()[0]),
        "files": len(os.listdir("/proc/self/fd")),
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "threads": threading.active_count(),
        "communicators": sum(isinstance(each, Communicator) for each in gc.get_objects()),
    }


def change_lists(steps: int) -> Iterator[dict[str, int]]:
    """Step random lists of the same variables, and look from time to time."""
    random = np.random.default_rng(3)
    variables = [Variable(np.zeros(size, np.float32), name=f"v{k}") for k, size in enumerate(SIZES)]
    optimizer = Adam(0.001)
    optimizer.build(variables)
    for step in range(steps):
        chosen = random.permutation(len(SIZES))[: random.integers(1, len(SIZES) + 1)]
        optimizer.apply_gradients([(np.ones(SIZES[k], np.float32), variables[k]) for k in chosen])
        if (step + 1) % (steps // LOOKS) == 0:
            yield holdings()


def drop_optimizers(count: int) -> Iterator[dict[str, int]]:
    """Make optimizers over the same and over new variables, step and drop them, and look from time to time."""
    kept = Variable(np.zeros(3000, np.float32), name="kept")
    for number in range(count):
        fresh = Variable(np.zeros(100 + number, np.float32), name="fresh")
        optimizer = FAMILIES[number % len(FAMILIES)]()
        for _ in range(2):
            optimizer.apply_gradients([(np.ones(v.shape, np.float32), v) for v in (kept, fresh)])
        if (number + 1) % (count // LOOKS) == 0:
            yield holdings()


def keep_optimizers(count: int) -> Iterator[dict[str, int]]:
    """Make optimizers over the same variable, step them and keep them all."""
    variable = Variable(np.zeros(30, np.float32), name="v")
    optimizers = []
    for _ in range(count):
        optimizers.append(Adam(0.1))
        optimizers[-1].apply_gradients([(np.ones(30, np.float32), variable)])
    assert all(int(optimizer.iterations) == 1 for optimizer in optimizers)
    yield holdings()


def drop_strategies(count: int, *, closes: bool) -> Iterator[dict[str, int]]:
    """Make strategies over the job's communicator and over duplicates of it, use them once, and close or drop them."""
    for number in range(count):
        comm = MPI.COMM_WORLD.Dup() if number % 4 == 3 else None
        strategy = Strategy(MPICommunicator(comm))
        with strategy.scope():
            if number % 10 == 0:
                variable = Variable(np.zeros(3000, np.float32), name="v")
                SGD(1.0).apply_gradients([(np.ones(3000, np.float32), variable)])
                assert float(variable[0]) == -MPI.COMM_WORLD.size
            distopt.barrier()
        if closes:
            strategy.close()
        del strategy
        if comm is not None:
            comm.Free()
        if (number + 1) % (count // LOOKS) == 0:
            yield holdings()


def form_groups(index: int, count: int) -> list[dict[str, int]]:
    """Form and leave groups of two, in a process of Ray, and look from time to time."""
    looks = []
    for number in range(count):
        with distopt.ray.init_group(index, 2, f"soak {number}"):
            distopt.barrier()
        if (number + 1) % (count // LOOKS) == 0:
            looks.append(holdings())
    return looks


def main() -> None:
    """Run all parts, and print what they saw."""
    steps, optimizers, strategies = map(int, sys.argv[1:])
    looks = {
        "lists": list(change_lists(steps)),
        "dropped": list(drop_optimizers(optimizers)),
        "kept": list(keep_optimizers(optimizers)),
        "closed": list(drop_strategies(strategies // 2, closes=True)),
        "forgotten": list(drop_strategies(strategies // 2, closes=False)),
    }
    if distopt.replica_index() == 0:
        print(json.dumps(looks))


if __name__ == "__main__":
    main()
