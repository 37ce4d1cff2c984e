"""Compares several replicas, one of them late, with the one replica that is right."""

from __future__ import annotations

import gc
import tempfile
from typing import Any

import numpy as np
from schedules.late import LateCommunicator, Lateness
from schedules.programs import Program, draw_program
from schedules.training import ALONE, Training

import distopt
from distopt.process.observers import add_observer
from distopt.testing import LocalReplica, Replicas

BUCKET_BYTES = "9000"
"""DISTOPT_BUCKET_BYTES: several buckets, and sums of them while gradients come."""


def check(seed: int, replicas: Replicas) -> None:
    """Run the program of a seed.

    Raises:
        AssertionError: a number depends on who was late; says how to run the program again.
    """
    program = draw_program(seed, replicas.count)
    difference = first_difference(program, replicas)
    gc.collect()  # ends the communication threads of lists that nobody has any more
    transport = {"ray": "sockets"}.get(replicas.transport, replicas.transport)
    command = f"DISTOPT_BUCKET_BYTES={BUCKET_BYTES} python tests/schedules/rerun.py {seed} {replicas.count} {transport}"
    again = f"mpirun -n {replicas.count} {command}" if transport == "mpi" else command
    assert difference is None, f"{difference}\n{program}\nagain: {again}"


def first_difference(program: Program, replicas: Replicas) -> str | None:
    """Run a program; say where a replica has other numbers than one that has the whole batch, or None."""
    with tempfile.TemporaryDirectory() as folder:
        (right,) = LocalReplica()(lambda: Training(program, ALONE, Lateness(0, 0, 1), folder).run())
        shared_folder = replicas(lambda: folder)[0] + "-of-all"  # replica 0's, for all processes

        def compare() -> str | None:
            me = distopt.replica_index()
            lateness = Lateness(program.seed, me, program.replicas)
            add_observer(lateness.observe)
            communicator = LateCommunicator(distopt.get_strategy().communicator, lateness, program.nodes)
            seen = Training(program, me, lateness, shared_folder, communicator).run()
            return _difference(right, seen)

        try:
            return next((f"replica {r}: {text}" for r, text in enumerate(replicas(compare)) if text), None)
        except Exception as error:  # a DivergedError, or any that says that replicas no longer know what to do
            return f"{type(error).__name__}: {error}"


def _difference(right: list[Any], seen: list[Any]) -> str | None:
    for (label, wanted), (_, found) in zip(right, seen, strict=True):
        flat, other = np.ravel(wanted).astype("f8"), np.ravel(found).astype("f8")
        differs = (flat != other) & ~(np.isnan(flat) & np.isnan(other))
        if differs.any():
            k = int(np.argmax(differs))
            return f"{label}: element {k} is {other[k]} for {flat[k]} ({int(differs.sum())} differ)"
    return None
