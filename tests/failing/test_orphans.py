"""A launcher that is killed takes the whole job along, in seconds."""

import os
import re
import signal
from itertools import product
from pathlib import Path

import pytest
from failing.processes import that_do_not_end
from quick import cases
from support import DISTOPT, descendants, mpirun_command, script_file, started

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}
PLACES = {
    "in steps": "while True: step()",
    "between steps": "time.sleep(100)",
    "while others are awaited": "if distopt.replica_index() == 0: time.sleep(100)\nstep()",
    "at exit": "if distopt.replica_index() == 0: time.sleep(100)",
}
TRAINING = """
import os, time
import numpy as np, distopt
w = distopt.Variable(np.zeros(50_000, "float32"), name="w")
optimizer = distopt.optimizers.SGD(0.1)
def step():
    optimizer.apply_gradients([(np.ones(50_000, "float32"), w)])
step()
print(f"ready {os.getpid()}")
"""


def name(pid):
    return Path(f"/proc/{pid}/comm").read_text().strip()


def launchers(job):
    """The launcher and its daemons, the topmost first; that one may be a Python program, as ``distopt run`` is."""
    below = descendants(job.process.pid)
    return [job.process.pid, *(pid for pid in below if not name(pid).startswith(("python", "sh")))]


def check_the_job_ends(command, script, choose, **environment):
    with script_file(script) as path, started([*command, path], env=ENVIRONMENT | environment) as job:
        job.wait_for("ready", times=2)
        family = {job.process.pid, *descendants(job.process.pid)}
        replicas = [int(pid) for pid in re.findall(r"ready (\d+)", job.output)]
        assert set(replicas) <= family
        for pid in choose(launchers(job)):
            os.kill(pid, signal.SIGKILL)
        left = that_do_not_end(family)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left
        result = job.wait()
    assert result.status != 0
    assert not list(Path("/dev/shm").glob("*distopt*"))
    return result


@pytest.mark.parametrize(
    ("place", "update"),
    cases(
        product(PLACES, ["replicated", "shared"]),
        quick=[
            ("in steps", "replicated"),
            ("between steps", "shared"),
            ("while others are awaited", "replicated"),
            ("at exit", "shared"),
        ],
    ),
)
def test_a_killed_mpirun(place, update):
    check_the_job_ends(mpirun_command(2), TRAINING + PLACES[place], lambda found: found[:1], DISTOPT_UPDATE=update)


@pytest.mark.parametrize("choose", [lambda found: found[-1:], lambda found: found], ids=["the daemon", "all"])
def test_a_killed_daemon_below_mpirun(choose):
    check_the_job_ends(mpirun_command(2), TRAINING + PLACES["between steps"], choose)


def test_a_launcher_that_was_killed_before_mpi_was_used():
    script = TRAINING.replace("step()\nprint", "launcher = os.getppid()\nprint")
    script += "while os.getppid() == launcher: time.sleep(0.01)\nstep()\ntime.sleep(100)"
    check_the_job_ends(mpirun_command(2), script, lambda found: found)


def test_a_launcher_that_is_killed_while_mpi_is_initialised():
    script = """
import os, time
from pathlib import Path
import distopt
from distopt.process.launcher import launched
launcher = os.getppid()
if launched().rank == 0:
    print(f"ready {os.getpid()}")
    distopt.barrier()  # MPI_Init waits for the other replica
children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
(other,) = {int(pid) for pid in children} - {os.getpid()}
def burnt():  # MPICH spins there, Open MPI may not
    return sum(map(int, Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()[11:13]))
while "libmpi" not in Path(f"/proc/{other}/maps").read_text(): time.sleep(0.01)
before, patience = burnt(), time.monotonic() + 1
while burnt() < before + 30 and time.monotonic() < patience: time.sleep(0.01)
print(f"ready {os.getpid()}")
while os.getppid() == launcher: time.sleep(0.01)
"""
    check_the_job_ends(mpirun_command(2), script, lambda found: found)


def test_a_launcher_that_is_killed_while_a_replica_without_threads_waits_at_exit():
    script = """
import atexit, os, time
import distopt
from distopt.process.launcher import launched
atexit.register(lambda: print(f"ready {os.getpid()}"))
launcher = os.getppid()
if launched().rank:
    from mpi4py import MPI
    print(f"ready {os.getpid()}")
    while os.getppid() == launcher: time.sleep(0.01)
"""
    check_the_job_ends(mpirun_command(2), script, lambda found: found)


def test_a_shell_script_between_the_launcher_and_the_replica(tmp_path):
    wrapper = tmp_path / "wrapper.sh"
    wrapper.write_text('#!/bin/sh\n"$@"\nexit $?\n')
    wrapper.chmod(0o755)
    *launcher, python = mpirun_command(2)
    check_the_job_ends([*launcher, wrapper, python], TRAINING + PLACES["between steps"], lambda found: found[:1])


def test_a_killed_distopt_run():
    command = [DISTOPT, "run", "-n", "2"]
    check_the_job_ends(command, TRAINING + PLACES["between steps"], lambda found: found[:1])


@pytest.mark.parametrize("first_use", ["", "step()\n"], ids=["before MPI", "after a step"])
def test_distopt_run_says_that_the_launcher_was_killed(first_use):
    script = TRAINING.replace("step()\nprint", f"{first_use}print") + PLACES["between steps"]
    result = check_the_job_ends([DISTOPT, "run", "-n", "2"], script, lambda found: found[1:2])
    assert re.search(
        r"distopt run: the launcher \(pid \d+\) was killed by signal 9 \(SIGKILL\)$", result.errors.strip()
    )


def test_importing_distopt_starts_no_thread():
    script = "import distopt, os, threading\nassert threading.active_count() == 1\n"
    with script_file(script) as path, started([*mpirun_command(2), path], env=ENVIRONMENT) as job:
        assert job.wait().status == 0
