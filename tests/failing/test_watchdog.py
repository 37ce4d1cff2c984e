"""A replica that the others wait for is named, with what it is doing; after the long deadline waiting is an error."""

import re
from pathlib import Path

import pytest
from support import run_replicas

ENVIRONMENT = {
    "DISTOPT_KERNELS": "reference",
    "OPENBLAS_NUM_THREADS": "1",
    "DISTOPT_DEADLINES": "warn=1,silent=2,end=3",
}
COUNT = 3
JOB = """
import os, re, signal, threading, time
import numpy as np, distopt
{before}
w = distopt.Variable(np.zeros(1000, "float32"), name="w")
optimizer = distopt.optimizers.SGD(0.1)
def step():
    optimizer.apply_gradients([(np.ones(1000, "float32"), w)])
def load_batch():
    {fault}
for k in range(3):
    if k == {at} and distopt.replica_index() == 1:
        load_batch()
    step()
print("finished", flush=True)
"""
FAULTS = {
    "stopped": (
        "os.kill(os.getpid(), signal.SIGSTOP)",
        "which is stopped (process {pid}: SIGSTOP, Ctrl-Z or a debugger",
    ),
    "deadlock": ("threading.Event().wait()", "it is at script.py:10 in load_batch"),
    "holds the interpreter": (
        "re.match('(a+)+$', 'a' * 60 + 'b')",
        "does not answer (process {pid} runs: compiled code",
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def job(fault, update, *, at=2, before="", deadlines=ENVIRONMENT["DISTOPT_DEADLINES"], folder):
    environment = ENVIRONMENT | {"DISTOPT_UPDATE": update, "DISTOPT_DEADLINES": deadlines, "TMPDIR": str(folder)}
    return run_replicas(COUNT, JOB.format(fault=fault, at=at, before=before), env=environment)


@pytest.mark.parametrize(
    ("kind", "update"), [("stopped", "replicated"), ("deadlock", "shared"), ("holds the interpreter", "replicated")]
)
def test_who_is_missing_and_what_it_does_is_said(kind, update, folder):
    fault, said = FAULTS[kind]
    result = job(fault, update, folder=folder)
    assert result.status != 0
    assert result.output.count("finished") == 0
    pattern = "for replica 1[ ,].*" + re.escape(said).replace(re.escape("{pid}"), r"\d+")
    waited = r"replica 0 has waited \d s in apply_gradients of SGD \(step 2\) "
    ((warning, path),) = re.findall(f"distopt: ({waited}.*). The stacks of all replicas are in (\\S+)", result.errors)
    assert re.search(pattern, warning)
    assert re.search(f"StalledError: {waited}.*{pattern}", result.errors)
    assert_stacks(Path(path), folder, kind)


def assert_stacks(path, folder, kind):
    assert path.parent == folder
    replicas = re.split("==== replica (?=[012]:)", path.read_text())[1:]
    assert len(replicas) == COUNT
    if kind == "deadlock":
        assert "in load_batch" in replicas[1]
    else:
        assert replicas[1].strip() == "1: no answer"
    for other in (0, 2):
        assert "last call apply_gradients of SGD (step 2)" in replicas[other]
        assert "in step" in replicas[other]


def test_one_that_never_came_to_the_first_call(folder):
    result = job(
        "pass", "replicated", before="if distopt.replica_index() == 1: threading.Event().wait()", folder=folder
    )
    assert result.status != 0
    assert "for a replica that has made none" in result.errors
    assert "StalledError" in result.errors


def test_one_that_is_slow_is_warned_of_and_awaited(folder):
    result = job(
        "time.sleep(2)  # what is late and comes", "replicated", deadlines="warn=0.5,silent=1,end=20", folder=folder
    )
    assert result.status == 0, result.text
    assert result.output.count("finished") == COUNT
    assert result.errors.count("has waited") == 1  # one replica says it, once
    assert not list(folder.iterdir())  # the stacks told of what has passed


def test_one_that_runs_and_can_not_answer_has_the_long_deadline(folder):
    solver = "ctypes.PyDLL(None).sleep(4)  # compiled code that keeps the interpreter's lock"
    result = job(solver, "replicated", before="import ctypes", deadlines="warn=0.5,silent=1,end=40", folder=folder)
    assert result.status == 0, result.text
    assert result.output.count("finished") == COUNT
    assert re.search(r"for replica 1, which does not answer \(process \d+ runs", result.errors)


def test_a_script_may_be_long_in_ending(folder):
    result = job("pass", "replicated", at=-1, deadlines="warn=0.3,silent=0.5,end=0.5", folder=folder)
    assert result.status == 0, result.text
    late = JOB.replace(
        'print("finished", flush=True)', "if distopt.replica_index() == 1: time.sleep(1.5)  # saves a plot"
    )
    result = run_replicas(
        COUNT,
        late.format(fault="pass", at=-1, before=""),
        env=ENVIRONMENT | {"DISTOPT_DEADLINES": "warn=0.3,silent=0.5,end=0.5"},
    )
    assert result.status == 0, result.text
    assert "has waited" not in result.errors


def test_a_script_may_finalise_mpi_itself(folder):
    script = JOB.format(fault="pass", at=-1, before="") + "from mpi4py import MPI\nMPI.Finalize()\n"
    result = run_replicas(COUNT, script, env=ENVIRONMENT)
    assert result.status == 0, result.text
