"""Processes forked from a replica: they may work and end like any other, but are told that they are no replicas."""

import sys
from itertools import product

import pytest
from quick import cases
from support import run, run_replicas, script_file

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}
HEAD = """
import multiprocessing, os, select, sys
import numpy as np, distopt
from distopt.process.launcher import launched

def status_of(child):
    with open(os.pidfd_open(child)) as ended:
        if not select.select([ended], [], [], 8)[0]:
            os.kill(child, 9)
            return "hung"
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def forked(function):
    child = os.fork()
    if child == 0:
        function()
        sys.exit(0)
    return status_of(child)

w = distopt.Variable(np.zeros(3, "float32"), name="w")
optimizer = distopt.optimizers.SGD(0.1)

def step():
    optimizer.apply_gradients([(np.ones(3, "float32"), w)])

def say(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()

first = launched() is not None and launched().rank == 0  # None: a spawned worker imports this script
"""
TAIL = "\nstep()\nassert distopt.all_reduce(1.0) == distopt.num_replicas()\nsay('goes on')\n"
USES = {
    "a step": "step()",
    "a collective": "distopt.barrier()",
    "the number of replicas and a sum": "distopt.num_replicas(); distopt.all_reduce(1.0)",
    "a strategy of its own": (
        "with distopt.Strategy(distopt.distribute.MPICommunicator()).scope(): distopt.all_reduce(1.0)"
    ),
}
ENDS = {
    "end of its program": ("lambda: None", 0),
    "sys.exit(3)": ("lambda: sys.exit(3)", 3),
    "exit(4)": ("lambda: exit(4)", 4),
    "SystemExit(5)": ("leave", 5),
    "an exception": ("lambda: int('boom')", 1),
    "an exception under another hook": ("lambda: (setattr(sys, 'excepthook', lambda *_: None), int('boom'))", 1),
}


def job(script, replicas=2, **environment):
    return run_replicas(replicas, HEAD + script + TAIL, env=ENVIRONMENT | environment)


def check_goes_on(result, replicas=2):
    assert result.status == 0, result.text
    assert result.output.count("goes on") == replicas
    assert "Replica" not in result.errors


@pytest.mark.parametrize(
    ("use", "update"),
    cases(
        product(USES, ["replicated", "shared"]),
        quick=[
            ("a step", "replicated"),
            ("a collective", "shared"),
            ("the number of replicas and a sum", "replicated"),
            ("a strategy of its own", "shared"),
        ],
    ),
)
def test_a_child_that_calls_distopt_gets_an_error_and_the_job_goes_on(use, update):
    script = f"""
step()
def use():
    try:
        {USES[use]}
    except distopt.errors.ForkedProcessError as error:
        say(f"refused: {{error}}")
if first: say(f"status {{forked(use)}}")
"""
    result = job(script, DISTOPT_UPDATE=update)
    check_goes_on(result)
    assert "status 0" in result.output
    assert "was forked from replica 0 and called a collective or a step" in result.output
    assert "multiprocessing.get_context('spawn')" in result.output


def test_a_child_that_was_forked_before_mpi_does_not_start_it():
    script = """
strategy = distopt.get_strategy()
def use():
    try:
        strategy.num_replicas_in_sync
    except distopt.errors.ForkedProcessError:
        say("refused")
if first: say(f"status {forked(use)}")
"""
    result = job(script)
    check_goes_on(result)
    assert "refused" in result.output
    assert "status 0" in result.output


@pytest.mark.parametrize("end", ENDS)
def test_a_child_ends_with_its_own_status_and_leaves_mpi_alone(end):
    function, status = ENDS[end]
    script = f"""
step()
def leave(): raise SystemExit(5)
if first: say(f"status {{forked({function})}}.")
"""
    result = job(script)
    check_goes_on(result)
    assert f"status {status}." in result.output
    assert result.errors.count("ValueError") == (end == "an exception")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_do_other_work(method):
    script = f"""
if __name__ == "__main__":
    step()
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
    step()
    say("goes on")
"""
    result = run_replicas(2, HEAD + script, env=ENVIRONMENT)
    check_goes_on(result)


def test_a_worker_that_calls_a_collective_fails_and_the_job_goes_on():
    script = """
step()
if first:
    worker = multiprocessing.get_context("fork").Process(target=distopt.barrier)
    worker.start()
    worker.join(8)
    say(f"status {worker.exitcode}.")
"""
    result = job(script)
    check_goes_on(result)
    assert "status 1." in result.output
    assert result.errors.count("distopt.errors.ForkedProcessError: ") == 1


def test_a_child_may_run_a_simulation_of_its_own():
    script = """
step()
if first: say(f"status {forked(lambda: say(str(distopt.simulate(2, lambda: distopt.all_reduce(1.0)))))}.")
"""
    result = job(script)
    check_goes_on(result)
    assert "status 0." in result.output
    assert "[array(2.), array(2.)]" in result.output


@pytest.mark.parametrize("use", ["distopt.barrier()", "step(optimizer, w)"])
def test_a_child_of_a_simulated_replica_is_told_too(use):
    script = f"""
import os, select
import numpy as np, distopt

def step(optimizer, w):
    optimizer.apply_gradients([(np.ones(3, "float32"), w)])

def train():
    w, optimizer = distopt.Variable(np.zeros(3, "float32")), distopt.optimizers.SGD(0.1)
    step(optimizer, w)
    if distopt.replica_index() == 0:
        child = os.fork()
        if child == 0:
            {use}
        with open(os.pidfd_open(child)) as ended:
            assert select.select([ended], [], [], 8)[0], "the child hangs"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    step(optimizer, w)
    return float(w.numpy()[0])

print(distopt.simulate(3, train), flush=True)
"""
    with script_file(script) as path:
        result = run([sys.executable, path], env=ENVIRONMENT)
    assert result.status == 0, result.text
    assert "ForkedProcessError: process " in result.errors
    assert "was forked from simulated replica 0" in result.errors
    assert len(set(result.output.strip("[]\n").split(", "))) == 1
