"""However a job ends, nothing of its shared memory is left; where there is none, the job goes on without."""

import re
from itertools import product
from pathlib import Path

import pytest
from failing.processes import that_do_not_end
from quick import cases
from support import mpirun_command, run_replicas, script_file, started

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}
NO_MEMFD = "import os\ndel os.memfd_create\n"
MEMORY = {"memfd": "", "dev-shm": NO_MEMFD}
TRAINING = """
import os, signal, sys
import numpy as np, distopt
from distopt.process.launcher import launched
rank, here = launched().rank, []
v = distopt.Variable(np.zeros(50_000, "float32"), name="v")
optimizer = distopt.optimizers.SGD(1.0, momentum=0.5)
def step(k):
    optimizer.apply_gradients([(np.full(50_000, rank + k, "float32"), v)])
step(0)
mapped = open("/proc/self/maps").read().count("distopt")
print(f"process {os.getpid()} maps {mapped}")
distopt.barrier()
"""
END = {
    "returns": "step(1)",
    "raises": "if rank == 1: raise ValueError('boom')\nstep(1)",
    "exits": "if rank == 1: sys.exit(3)\nstep(1)",
    "is killed": "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\nstep(1)",
    "is killed in a sweep": """
from distopt.distribute.node import node_sum
from distopt.engine.sweep import blocks
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
if rank == 1: node_sum.add_tree = blocks.add_tree = die
step(1)
""",
}


def job(script, replicas=2, **environment):
    return run_replicas(replicas, script, env=ENVIRONMENT | environment)


def check_nothing_is_left(result, replicas):
    processes = re.findall(r"process (\d+) maps (\d+)", result.output)
    assert len(processes) == replicas, result.text
    assert all(int(mapped) > 0 for _, mapped in processes)
    assert not that_do_not_end(int(process) for process, _ in processes)
    assert not list(Path("/dev/shm").glob("*distopt*"))


@pytest.mark.parametrize(
    ("end", "memory"),
    cases(
        product(END, MEMORY),
        quick=[
            ("returns", "memfd"),
            ("raises", "dev-shm"),
            ("exits", "memfd"),
            ("is killed", "dev-shm"),
            ("is killed in a sweep", "memfd"),
        ],
    ),
)
def test_nothing_is_left_when_a_replica(end, memory):
    result = job(MEMORY[memory] + TRAINING + END[end], DISTOPT_UPDATE="shared")
    assert (result.status == 0) == (end == "returns"), result.text
    check_nothing_is_left(result, 2)


def test_nothing_is_left_when_the_job_is_ended_from_outside():
    script = TRAINING + "print('training', flush=True)\nfor k in range(10**9): step(k)\n"
    with script_file(script) as path, started([*mpirun_command(3), path], env=ENVIRONMENT) as training:
        training.wait_for("training", times=3)
        training.process.terminate()
        result = training.wait()
    check_nothing_is_left(result, 3)


FULL = "OSError(28, 'No space left on device')"
NO_ROOM = {
    "file size limit": "import resource\nfrom mpi4py import MPI\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n",
    "small file size limit": (  # the barrier's memory can be had, the parameters' can't
        "import resource\nfrom mpi4py import MPI\nresource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))\n"
    ),
    "full /dev/shm": f"import os\ndel os.memfd_create\ndef full(*_): raise {FULL}\nos.posix_fallocate = full\n",
    "no /dev/shm": f"{NO_MEMFD}from distopt.memory import segment\nsegment._FALLBACK = '/nowhere'\n",
    "one replica has none": (
        "from distopt.process.launcher import launched\nfrom distopt.memory import segment\n"
        f"def full(*_): raise {FULL}\nif launched().rank == 1: segment._memory_file = full\n"
    ),
}


@pytest.mark.parametrize(
    ("reason", "update"),
    cases(
        product(NO_ROOM, ["replicated", "shared"]),
        quick=[
            ("file size limit", "replicated"),
            ("small file size limit", "shared"),
            ("full /dev/shm", "replicated"),
            ("no /dev/shm", "shared"),
            ("one replica has none", "replicated"),
        ],
    ),
)
def test_without_room_the_job_goes_on_by_messages_and_says_so_once(reason, update):
    # Momentum 0.5: -3, then -(1.5 + 6) more, where replicas 0, 1 and 2 bring k, 1 + k and 2 + k in step k.
    check = "step(1)\nprint(f'value {v.numpy().min()} {v.numpy().max()}\\n', end='', flush=True)\n"
    result = job(NO_ROOM[reason] + TRAINING + check, replicas=3, DISTOPT_UPDATE=update)
    assert result.status == 0, result.text
    assert result.output.count("value -10.5 -10.5") == 3
    assert result.errors.count("the replicas of a node can't share memory") == 1
    assert result.errors.count("Warning") == 1


LATE_FAILURES = {
    "in the sum, while others wait in the barrier": """
from distopt.distribute.node import node_sum
from distopt.engine.sweep import blocks
def fail(*arguments):
    raise ValueError("boom")
if rank == 1: node_sum.add_tree = blocks.add_tree = fail
step(1)
""",
    "between begin_step and end_step": """
optimizer.begin_step([v])
if rank == 1: raise ValueError("boom")
optimizer.push(v, np.ones(50_000, "float32"))
optimizer.end_step()
""",
    "in the update": """
from distopt.engine.sweep import blocks
def fail(*arguments):
    raise ValueError("boom")
if rank == 1: blocks.update = fail
step(1)
""",
}


@pytest.mark.parametrize(
    ("place", "update"),
    cases(
        product(LATE_FAILURES, ["replicated", "shared"]),
        quick=[
            ("in the sum, while others wait in the barrier", "replicated"),
            ("between begin_step and end_step", "shared"),
            ("in the update", "replicated"),
        ],
    ),
)
def test_a_replica_that_raises_late_ends_the_job_in_seconds(place, update):
    result = job(TRAINING + LATE_FAILURES[place], 3, DISTOPT_UPDATE=update, DISTOPT_BUCKET_BYTES="1000")
    assert result.status != 0
    assert "ValueError: boom" in result.errors
    assert "Replica 1 failed" in result.errors
    check_nothing_is_left(result, 3)
