"""Random programs: right where replicas agree, an error on all where they don't, and never a hang.

``DISTOPT_PROGRAMS`` says how many; ``make chaos`` runs 10,000.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import threading
from typing import Any

import numpy as np
import pytest
from chaos.program_meetings import GONE
from chaos.program_model import Replica, predict
from chaos.program_replica import World, run_replica
from chaos.programs import Program, programs
from hypothesis import given, settings

from distopt.distribute.simulation import run_on
from distopt.distribute.transports.threads import Hub
from distopt.optimizers.common.access import counter_of

DEADLINE = 30
"""Seconds: a thousand times what a program takes."""

# A program may leave gradients out on all replicas, and begin with different values: both are warned of.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True, scope="module")
def _small_buckets():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTOPT_BUCKET_BYTES", "64")
        yield


@pytest.mark.timeout(3600)
@settings(max_examples=int(os.environ.get("DISTOPT_PROGRAMS", "300")))
@given(programs())
def test_a_program(program: Program) -> None:
    check(program)


def test_a_hang_fails_and_shows_where_every_thread_is(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def wait_for_ever(program: Program, worlds: dict[int, World]) -> None:
        released.wait()

    monkeypatch.setattr(sys.modules[__name__], "DEADLINE", 0.1)
    monkeypatch.setattr(sys.modules[__name__], "run_replica", wait_for_ever)
    with pytest.raises(AssertionError, match="in wait_for_ever"):
        play(Program(((), ()), (True, True), (0, 0), "replicated", ("SGD", "SGD"), starts_differ=False, state_every=0))
    released.set()


def check(program: Program) -> None:
    """Run a program and compare what came of it with the model."""
    expected = predict(program)
    worlds, failure = play(program)
    has_died = any(replica.has_died for replica in expected)
    assert (failure is not None) == has_died, f"expected {'an' if has_died else 'no'} exception, got {failure!r}"
    # Nodes finish a step on their own: some learn of another's failure right after a step, others still in it.
    may_be_early = has_died and len(set(program.nodes)) > 1
    for index, replica in enumerate(expected):
        compare_logs(worlds[index].log, replica.log, f"replica {index}", may_be_early=may_be_early)
    if not may_be_early and not any(entry == ("error", GONE) for replica in expected for entry in replica.log):
        for index, replica in enumerate(expected):
            compare_states(worlds[index], replica, f"replica {index}")


def play(program: Program) -> tuple[dict[int, World], BaseException | None]:
    """Run a program; a hang fails, and shows where every thread is."""
    hub, worlds, failures = Hub(len(program.nodes), program.nodes), dict[int, World](), list[BaseException]()

    def run() -> None:
        try:
            run_on(hub, run_replica, program, worlds)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    if thread.is_alive():
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            stacks = file.read()
        hub.stop("its deadline has passed")
        raise AssertionError(f"still running after {DEADLINE} s:\n{stacks}")
    return worlds, next(iter(failures), None)


def compare_logs(log: list[tuple[str, Any]], expected: list[tuple[str, Any]], who: str, *, may_be_early: bool) -> None:
    """The same outcomes call by call; after another replica has ended there are errors only."""
    for number, (entry, wanted) in enumerate(zip(log, expected, strict=False)):
        is_gone = entry[0] == "error" and entry[1] in ("ReplicaLeftError", "ReplicaFailedError")
        if wanted == ("error", GONE):
            assert is_gone, f"{who}, call {number}: expected that another has ended, got {entry}"
        elif may_be_early and is_gone:
            return
        else:
            assert entry[0] == wanted[0], f"{who}, call {number}: expected {wanted}, got {entry}"
            compare(entry[1], wanted[1], f"{who}, call {number}")
    assert len(log) == len(expected), f"{who} made {len(log)} calls, expected {expected}, got {log}"


def compare_states(world: World, replica: Replica, who: str) -> None:
    for variable, value in zip(world.variables, replica.values, strict=True):
        compare(variable.storage.array, value, f"{who}: {variable.name}")
    for optimizer, wanted in zip(world.optimizers, replica.optimizers, strict=True):
        compare(int(counter_of(optimizer).storage.array), wanted.iterations, f"{who}: iterations")


def compare(actual: Any, expected: Any, what: str) -> None:
    """Compare values, lists of them, and arrays of different precision."""
    if isinstance(expected, (list, tuple)):
        assert isinstance(actual, (list, tuple)), f"{what}: {actual} is not {expected}"
        assert len(actual) == len(expected), f"{what}: {actual} is not {expected}"
        for k, (mine, wanted) in enumerate(zip(actual, expected, strict=True)):
            compare(mine, wanted, f"{what} [{k}]")
    elif isinstance(expected, (np.ndarray, np.floating)):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4, err_msg=what)
    else:
        assert actual == expected, f"{what}: {actual} is not {expected}"
