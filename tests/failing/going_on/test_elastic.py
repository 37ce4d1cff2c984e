"""A replica dies under ``mpirun --with-ft ulfm``: the others go on, and every example is used once an epoch."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from support import mpirun, run, run_replicas

from distopt.distribute import ElasticCommunicator, Strategy, get_strategy
from distopt.elastic import run as run_elastic
from distopt.errors import InvalidArgumentError
from distopt.optimizers import SGD

JOB = Path(__file__).with_name("elastic_job.py")
ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}
STEPS, EPOCHS, EXAMPLES = 21, 3, 64

with_ulfm = pytest.mark.skipif(mpirun().family != "openmpi", reason="only Open MPI survives the death of a process")


def elastic(replicas, *arguments):
    command = [mpirun().path, "--with-ft", "ulfm", "-n", str(replicas), sys.executable, JOB, *map(str, arguments)]
    result = run(command, env=ENVIRONMENT)
    assert result.status == 0, result.text
    return [json.loads(line) for line in result.output.splitlines() if line.startswith("{")]


def expected_weights():
    """Those of one process: what a step adds up does not depend on who computes it."""
    lines = elastic(1, -1, 0, "never")
    return np.array(lines[-1]["weights"])


@with_ulfm
@pytest.mark.parametrize(
    ("count", "victim", "step", "place"),
    [
        (3, 1, 5, "before the step"),
        (3, 0, 7, "after the step"),
        (3, 2, 4, "in the step"),
        (2, 1, 3, "in the step"),
        (4, 3, 20, "before the step"),
        (4, 0, 20, "after the step"),
    ],
)
def test_the_survivors_go_on(count, victim, step, place):
    lines = elastic(count, victim, step, place)
    ends = [line for line in lines if "weights" in line]
    assert [(end["replicas"], end["steps"]) for end in ends] == [(count - 1, STEPS)] * (count - 1)
    assert len({str(end["weights"]) for end in ends}) == 1
    np.testing.assert_allclose(ends[0]["weights"], expected_weights(), rtol=1e-3)
    seen = [number for line in lines if "used" in line for number in line["used"]]
    counts = np.bincount(seen, minlength=EXAMPLES)
    # What the victim has used in the step that it died in, nobody has printed: the others have committed it.
    assert counts.max() == EPOCHS
    assert counts.sum() >= EPOCHS * EXAMPLES - -(-10 // count)
    if place != "in the step":
        assert counts.tolist() == [EPOCHS] * EXAMPLES


@with_ulfm
def test_nobody_dies():
    lines = elastic(3, -1, 0, "never")
    assert [line["replicas"] for line in lines if "weights" in line] == [3, 3, 3]


def test_without_fault_tolerance_it_says_how_to_start():
    script = (
        "import distopt\nfrom distopt.distribute import ElasticCommunicator, Strategy\n"
        "with Strategy(ElasticCommunicator()).scope():\n    distopt.barrier()\n"
    )
    result = run_replicas(2, script, env=ENVIRONMENT)
    assert result.status != 0
    assert "mpirun --with-ft ulfm" in result.errors


def test_a_strategy_that_can_lose_nobody_is_refused():
    assert get_strategy().communicator.name == "local"
    with pytest.raises(InvalidArgumentError, match=r"Strategy\(ElasticCommunicator\(\)\)"):
        run_elastic(lambda: None, optimizer=SGD(0.1), data=None)
    with (
        Strategy(ElasticCommunicator(), update="shared").scope(),
        pytest.raises(InvalidArgumentError, match="replicated"),
    ):
        run_elastic(lambda: None, optimizer=SGD(0.1), data=None)
