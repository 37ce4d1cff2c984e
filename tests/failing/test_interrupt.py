"""Ctrl-C ends a job in seconds, wherever it is, with one short line."""

import os
import re
import signal
import sys
from itertools import product
from pathlib import Path

import pytest
from failing.processes import that_do_not_end
from quick import cases
from support import DISTOPT, descendants, mpirun, mpirun_command, script_file, started

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}
PLACES = {
    "in steps": "say('ready')\nwhile True: step()",
    "between steps": "say('ready')\ntime.sleep(100)",
    "while another is awaited": "say('ready')\nif distopt.replica_index(): time.sleep(100)\nstep()",
    "in checkpoints": """
from distopt.checkpoint import Checkpointer
checkpointer = Checkpointer(sys.argv[1], optimizer=optimizer)
checkpointer.save()
say('ready')
while True:
    step()
    checkpointer.save()
""",
    "at exit": "say('ready')\nif distopt.replica_index(): time.sleep(100)",
}
TRAINING = """
import sys, time
import numpy as np, distopt
w = distopt.Variable(np.zeros(1000, "float32"), name="w")
optimizer = distopt.optimizers.SGD(0.1)
def step():
    optimizer.apply_gradients([(np.ones(1000, "float32"), w)])
def say(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()
step()
"""


def interrupted(command, script, times, *arguments, ready=2, **environment):
    """Do what a terminal does: interrupt the launcher's group, once or twice in a row."""
    with script_file(script) as path, started([*command, path, *arguments], env=ENVIRONMENT | environment) as job:
        job.wait_for("ready", times=ready)
        family = descendants(job.process.pid)
        for _ in range(times):
            os.killpg(job.process.pid, signal.SIGINT)
        result = job.wait()
        assert not that_do_not_end(family)
    assert not list(Path("/dev/shm").glob("*distopt*"))
    return result


@pytest.mark.parametrize(
    ("place", "times", "update"),
    cases(
        [(place, *way) for place in PLACES for way in [(1, "replicated"), (2, "shared")]],
        quick=[
            ("in steps", 1, "replicated"),
            ("between steps", 2, "shared"),
            ("while another is awaited", 1, "replicated"),
            ("in checkpoints", 2, "shared"),
            ("at exit", 1, "replicated"),
        ],
    ),
)
def test_distopt_run_says_one_line(place, times, update, tmp_path):
    command = [DISTOPT, "run", "-n", "2"]
    result = interrupted(command, TRAINING + PLACES[place], times, tmp_path, DISTOPT_UPDATE=update)
    assert result.status != 0
    assert result.errors.strip() == "distopt run: stopped by SIGINT"


@pytest.mark.parametrize(
    ("place", "times"),
    cases(
        product(PLACES, [1, 2]),
        quick=[
            ("in steps", 1),
            ("between steps", 2),
            ("while another is awaited", 1),
            ("in checkpoints", 2),
            ("at exit", 1),
        ],
    ),
)
def test_plain_mpirun_shows_no_traceback(place, times, tmp_path):
    result = interrupted(mpirun_command(3), TRAINING + PLACES[place], times, tmp_path, ready=3)
    assert result.status != 0 or times == 2  # MPICH's launcher may crash at the second one, and say 0
    assert "Traceback" not in result.errors
    replicas = [line for line in result.errors.splitlines() if line.startswith("Replica")]
    assert all(re.fullmatch(r"Replica \d failed: interrupted \(Ctrl-C\)", line) for line in replicas)
    # Open MPI's launcher, and MPICH's at a second Ctrl-C, end the replicas before they can say anything.
    assert len(replicas) <= 1
    assert replicas or times == 2 or mpirun().family == "openmpi"


def test_a_replica_that_alone_is_interrupted_is_named():
    script = f"{TRAINING}import os\nsay(f'ready {{distopt.replica_index()}} {{os.getpid()}}')\nwhile True: step()"
    with script_file(script) as path, started([*mpirun_command(3), path], env=ENVIRONMENT) as job:
        job.wait_for("ready", times=3)
        pid = next(int(line.split()[2]) for line in job.output.splitlines() if line.startswith("ready 1"))
        os.kill(pid, signal.SIGINT)
        result = job.wait()
    assert result.status != 0
    assert "Replica 1 failed: interrupted (Ctrl-C)" in result.errors


@pytest.mark.parametrize("place", ["distopt.barrier()", "time.sleep(0.01)"])
def test_a_simulation_ends_as_any_program_of_python(place):
    script = f"{TRAINING}def train():\n    say('ready')\n    while True: {place}\ndistopt.simulate(3, train)"
    result = interrupted([sys.executable], script, 1, ready=3)
    assert result.status == -signal.SIGINT
    assert result.errors.count("Traceback") == 1
    assert result.errors.rstrip().endswith("KeyboardInterrupt")


def test_a_person_is_told_what_to_do_when_replicas_do_not_end():
    script = f"{TRAINING}import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nsay('ready')\ntime.sleep(100)"
    with script_file(script) as path, started([DISTOPT, "run", "-n", "2", path], env=ENVIRONMENT) as job:
        job.wait_for("ready", times=2)
        job.process.send_signal(signal.SIGINT)
        if mpirun().family == "mpich":
            job.wait_for("the replicas have not ended yet; another Ctrl-C kills them")
            job.process.send_signal(signal.SIGINT)
        assert job.wait().status != 0
