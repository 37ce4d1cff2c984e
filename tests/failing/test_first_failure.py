"""One replica of four fails: the whole job ends in seconds, non-zero, and says who failed and why."""

import time
from itertools import product
from pathlib import Path

import pytest
from quick import cases
from support import DISTOPT, SOON, Result, run, run_replicas

VICTIM = Path(__file__).with_name("victim.py")
PLACES = ("before MPI", "before the first step", "between steps", "in a step")
KINDS = ("raise", "thread", "exit", "leave", "kill", "crash")
# What fails is how a job ends, not its arithmetic: NumPy's kernels load a second faster.
ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}


def seconds_since_failure(result: Result, ended: float) -> float:
    line = next(line for line in result.output.splitlines() if line.startswith("failing at"))
    return ended - float(line.removeprefix("failing at "))


def last_traceback(text: str) -> str:
    """From the line before the last traceback's head to the exception's text."""
    before, _, after = text.rpartition("Traceback (most recent call last):")
    return before.splitlines()[-1] + "\n" + after


@pytest.mark.parametrize(
    ("kind", "place"),
    cases(
        product(KINDS, PLACES),
        quick=[
            ("raise", "before MPI"),
            ("thread", "before the first step"),
            ("exit", "between steps"),
            ("leave", "in a step"),
            ("kill", "before MPI"),
            ("crash", "before the first step"),
        ],
    ),
)
def test_the_job_ends_at_once(kind: str, place: str) -> None:
    result = run_replicas(4, VICTIM, [kind, place, "1"], env=ENVIRONMENT)
    assert seconds_since_failure(result, time.time()) < SOON
    assert result.status != 0
    assert "finished" not in result.output
    if kind in ("raise", "thread"):
        report = last_traceback(result.errors)
        assert report.startswith(("Replica 1 failed", "in thread"))
        assert "boom" in report
    if kind == "exit":
        assert "Replica 1 failed: called sys.exit(3)" in result.errors
    if kind == "leave" and place != "in a step":
        assert "ReplicaLeftError: replica 1 of 4 has ended" in last_traceback(result.errors)


@pytest.mark.parametrize("victim", [0, 3])
def test_any_replica_may_be_the_first(victim: int) -> None:
    result = run_replicas(4, VICTIM, ["raise", "between steps", str(victim)], env=ENVIRONMENT)
    assert result.status != 0
    assert f"Replica {victim} failed:" in result.errors
    assert last_traceback(result.errors).count("ValueError: boom") == 1


def test_a_failure_of_all_prints_one_traceback() -> None:
    script = "import distopt\ndistopt.barrier()\nraise RuntimeError('the same bug everywhere')\n"
    result = run_replicas(4, script, env=ENVIRONMENT)
    assert result.status != 0
    assert result.errors.count("Traceback (most recent call last)") == 1
    assert "Replica 0 failed:" in result.errors


def test_replicas_that_return_at_different_times_are_no_failure() -> None:
    script = (
        "import distopt, sys, threading\n"
        "if distopt.replica_index() == 2:\n"
        "    threading.Event().wait(1.5)\n"
        "sys.stdout.write(f'done {distopt.replica_index()}\\n')\n"
    )
    result = run_replicas(3, script, env=ENVIRONMENT)
    assert result.status == 0, result.text
    assert sorted(result.output.split()) == ["0", "1", "2", "done", "done", "done"]


def test_a_script_that_only_imports_distopt_ends_well() -> None:
    result = run_replicas(3, "import distopt\nprint('imported')\n", env=ENVIRONMENT)
    assert result.status == 0, result.text
    assert result.output.count("imported") == 3


def test_an_exit_that_was_caught_is_forgotten() -> None:
    script = "import sys, distopt\ntry:\n    sys.exit(3)\nexcept SystemExit:\n    pass\ndistopt.barrier()\n"
    result = run_replicas(2, script, env=ENVIRONMENT)
    assert result.status == 0, result.text


@pytest.mark.parametrize("kind", ["raise", "thread", "exit", "kill"])
def test_distopt_run_prints_the_first_failure_last(kind: str) -> None:
    command = [DISTOPT, "run", "-n", "4", VICTIM, kind, "between steps", "1"]
    result = run(command, env=ENVIRONMENT)
    assert result.status != 0
    end = result.errors.rstrip().splitlines()
    if kind in ("raise", "thread"):
        assert "boom" in end[-1]
    elif kind == "exit":
        assert "Replica 1 failed: called sys.exit(3)" in end[-1]
    else:
        assert "replica 1" in end[-1]
        assert "SIGKILL" in end[-1]
