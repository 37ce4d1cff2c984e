"""Jobs that end while gradients are streamed: no hang, the first failure's name, and no thread in the way."""

from itertools import product

import pytest
from quick import cases
from support import run_replicas

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1", "DISTOPT_BUCKET_BYTES": "1"}
PREAMBLE = """
import os, signal, sys, threading
import numpy as np
import distopt
from distopt import Strategy, Variable
from distopt.distribute import MPICommunicator

me, size = distopt.replica_index(), distopt.num_replicas()
# Pretended nodes, between which the communication threads send messages.
communicator = MPICommunicator(nodes=[r % 2 for r in range(size)] if "nodes" in sys.argv else ())
distopt.get_strategy().communicator = communicator
variables = [Variable(np.zeros(n, "float32"), name=f"v{n}") for n in (10, 5000, 9000)]
optimizer = distopt.optimizers.SGD(1.0)


def push(count):
    for v in variables[:count]:
        optimizer.push(v, np.ones(v.shape, "float32"))


def step():
    optimizer.begin_step(variables)
    push(3)
    return int(optimizer.end_step())


step()
"""
PLACEMENTS = {"one node": [], "nodes": ["nodes"]}
"""What the script is given, by where its replicas are."""
FAILURES = {
    "raise": "raise ValueError('boom')",
    "exit": "sys.exit(3)",
    "leave": "sys.exit(0)",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
}


def job(script, arguments=(), replicas=3, environment=ENVIRONMENT):
    return run_replicas(replicas, PREAMBLE + script, arguments, env=environment)


@pytest.mark.parametrize(
    ("kind", "placement"),
    cases(
        product(FAILURES, PLACEMENTS),
        quick=[
            ("raise", "one node"),
            ("exit", "nodes"),
            ("leave", "one node"),
            ("kill", "nodes"),
        ],
    ),
)
def test_a_replica_that_ends_within_a_step_ends_the_job(kind, placement):
    script = f"optimizer.begin_step(variables)\npush(3 if me != 1 else 1)\nif me == 1:\n    {FAILURES[kind]}\n"
    result = job(script + "optimizer.end_step()\nprint('finished')\n", PLACEMENTS[placement])
    assert result.status != 0
    assert "finished" not in result.output
    if kind == "raise":
        assert "Replica 1 failed:" in result.errors
        assert result.errors.rstrip().count("ValueError: boom") >= 1
        last = result.errors.rpartition("Traceback (most recent call last):")[2]
        assert "ValueError: boom" in last
    if kind == "exit":
        assert "Replica 1 failed: called sys.exit(3)" in result.errors
    if kind == "leave":
        assert "ReplicaLeftError: replica 1 of 3 has ended" in result.errors


@pytest.mark.parametrize(
    ("pushed", "placement"),
    cases(
        product(["0", "1 + me", "3"], PLACEMENTS),
        quick=[
            ("0", "one node"),
            ("1 + me", "nodes"),
            ("3", "one node"),
        ],
    ),
)
def test_a_script_may_end_with_a_step_that_has_only_begun(pushed, placement):
    """The communication thread waits for a gradient, for the other replicas of its node, or for a message."""
    script = f"step()\noptimizer.begin_step(variables)\npush({pushed})\nprint('done', flush=True)\n"
    result = job(script, PLACEMENTS[placement])
    assert result.status == 0, result.text
    assert result.output.count("done") == 3
    assert "Replica" not in result.errors


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_script_ends_well_with_an_idle_communication_thread(placement):
    script = """
assert step() == 2
names = [thread.name for thread in threading.enumerate()]
assert names.count("distopt communication") == 1
assert all((v.numpy() == -2 * size).all() for v in variables)
print("done", flush=True)
"""
    result = job(script, PLACEMENTS[placement])
    assert result.status == 0, result.text
    assert result.output.count("done") == 3


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_backward_pass_that_failed_and_was_caught(placement):
    """One replica begins the next step while the others wait in ``end_step``: all are told, and can go on."""
    script = """
optimizer.begin_step(variables)
try:
    push(1 if me == 1 else 3)
    if me == 1:
        raise FloatingPointError("backward")
    optimizer.end_step()
except FloatingPointError:
    try:
        step()
    except distopt.errors.CollectiveMismatchError:
        pass
except distopt.errors.CollectiveMismatchError as error:
    assert "call: replica 1: begin_step of SGD" in str(error)
assert step() == 2
assert all((v.numpy() == -2 * size).all() for v in variables)
print("done", flush=True)
"""
    result = job(script, PLACEMENTS[placement])
    assert result.status == 0, result.text
    assert result.output.count("done") == 3


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_one_replica_says_how_gradients_are_summed(placement):
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "DISTOPT_BUCKET_BYTES"}
    result = job("step()\n", PLACEMENTS[placement], environment=environment)
    assert result.status == 0, result.text
    assert result.errors.count("distopt: gradients are summed") == 1
    assert "(DISTOPT_BUCKET_BYTES=n fixes n bytes)" in result.errors


def test_sizes_that_differ_are_an_error():
    result = run_replicas(
        2,
        "import os\nos.environ['DISTOPT_BUCKET_BYTES'] = os.environ.get('PMI_RANK', '') or "
        "os.environ['OMPI_COMM_WORLD_RANK']\n" + PREAMBLE,
        env=ENVIRONMENT,
    )
    assert result.status != 0
    assert "bucket size (DISTOPT_BUCKET_BYTES): replica 0: 0" in result.errors


def test_a_size_that_is_none_is_named():
    result = job("", environment=ENVIRONMENT | {"DISTOPT_BUCKET_BYTES": "abc"})
    assert result.status != 0
    assert "DISTOPT_BUCKET_BYTES='abc': expected a number of bytes, 1 or more" in result.errors
