"""Killed at any moment and started again, a job ends in the bits of one that was never killed.

CHAOS_CYCLES says how many kills; a tenth of them hits several replicas, a hundredth jobs under MPI.
"""

import os
import random
import uuid
from pathlib import Path

import pytest
from chaos.matrix import EARLY, LATE, STEPS
from chaos.play import job, killed_and_resumed, mpi_cleaned_up, processes_left, undisturbed

from distopt.checkpoint.directory import steps_in

CYCLES = int(os.environ.get("CHAOS_CYCLES", "1000"))

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(60 + 2 * CYCLES)]


@pytest.fixture(scope="module", autouse=True)
def _clean():
    with mpi_cleaned_up():
        yield


@pytest.mark.parametrize(
    ("kills", "count", "update"),
    [
        (CYCLES - CYCLES // 5, 1, "replicated"),
        (max(2, CYCLES // 10), 2, "replicated"),
        (max(2, CYCLES // 10), 3, "shared"),
    ],
)
def test_killed_and_resumed(kills: int, count: int, update: str) -> None:
    killed_and_resumed(kills, count, update)


@pytest.mark.parametrize("update", ["replicated", "shared"])
def test_killed_and_resumed_under_mpi(update: str, tmp_path: Path) -> None:
    chance = random.Random(update)
    kills = jobs = 0
    while kills < max(2, CYCLES // 100):
        folder = tmp_path / f"checkpoints-{jobs}"
        environment = {"CHAOS_CHECKPOINTS": str(folder), "DISTOPT_UPDATE": update}
        status = None
        while status != 0:
            done = (steps_in(folder) or [0])[-1]
            place, step = chance.choice([*EARLY, *LATE]), chance.randrange(done, STEPS + 1)
            sentence = f"kill replica {chance.randrange(2)} {place} at step {step}"
            mark = uuid.uuid4().hex
            result = job("mpi", 2, ["-i", sentence], tmp_path, mark, environment)
            status = result.status
            kills += status != 0
            assert status == 0 or "SIGKILL" in result.errors, f"{sentence}\n{result.text}"
            assert processes_left(mark) == []
        digest = undisturbed("all steps", "mpi", 2)
        assert result.output.count(f"ended with {digest}") == 2, result.text
        jobs += 1
