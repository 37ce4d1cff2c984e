"""How replicas of a job end that are not all alike: no hang, no false alarm, and the true reason."""

from itertools import product

import pytest
from quick import cases
from support import run_replicas

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}
IN_PAIRS = """
import distopt
from distopt import Strategy
from distopt.distribute import MPICommunicator
from mpi4py import MPI
world = MPI.COMM_WORLD
pair = world.Split(0 if world.rank < 2 else MPI.UNDEFINED)
"""
# Python 3.12 and later start no thread in exit handlers; here, none does. The last handler registered runs first.
WITHOUT_THREADS_AT_EXIT = """
import atexit, threading
def refuse(thread):
    raise RuntimeError("can't create new thread at interpreter shutdown")
atexit.register(setattr, threading.Thread, "start", refuse)
"""
FIRST_CALLS_AT_EXIT = {
    "nobody calls anything": "import distopt",
    "one has imported mpi4py": "import distopt\nif distopt.process.launcher.launched().rank: from mpi4py import MPI",
    "others use a communicator of their own": (
        f"{IN_PAIRS}\nif pair:\n    with Strategy(MPICommunicator(pair)).scope(): distopt.barrier()"
    ),
    "all call": "import atexit, distopt\natexit.register(lambda: distopt.barrier())\natexit.register(distopt.barrier)",
    "one calls, the others have": (
        "import atexit, distopt\nfirst = distopt.process.launcher.launched().rank == 0\n"
        "atexit.register(distopt.barrier) if first else distopt.barrier()"
    ),
}


def job(script, replicas=2, arguments=()):
    return run_replicas(replicas, script, arguments, env=ENVIRONMENT)


BEFORE = ["", "distopt.replica_index()", "distopt.barrier()", "distopt.print_once('hi')"]
AFTER = ["", "if pair: distopt.print_once('bye')"]


@pytest.mark.parametrize(
    ("after", "before"),
    cases(
        product(AFTER, BEFORE),
        quick=[
            (AFTER[0], BEFORE[0]),
            (AFTER[0], BEFORE[2]),
            (AFTER[1], BEFORE[1]),
            (AFTER[1], BEFORE[3]),
        ],
    ),
)
def test_a_replica_outside_of_the_communicator_in_use_may_return(before, after):
    script = (
        f"{IN_PAIRS}{before}\nif pair:\n    with Strategy(MPICommunicator(pair)).scope():\n        distopt.barrier()\n"
    )
    result = job(f"{script}{after}\nprint('done', flush=True)\n", replicas=3)
    assert result.status == 0, result.text
    assert result.output.count("done") == 3


@pytest.mark.parametrize("calls", FIRST_CALLS_AT_EXIT)
def test_the_exit_handlers_need_no_new_thread(calls):
    script = f"{FIRST_CALLS_AT_EXIT[calls]}\nprint('done')\n{WITHOUT_THREADS_AT_EXIT}"
    result = job(script, replicas=3)
    assert result.status == 0, result.text
    assert result.output.count("done") == 3
    assert "Traceback" not in result.errors


STEPS = """
import atexit, sys
import numpy as np, distopt
first = distopt.process.launcher.launched().rank == 0
w = distopt.Variable(np.zeros(5000, "float32"))
sgd = distopt.optimizers.SGD(1.0)
sgd.apply_gradients([(np.zeros(5000, "float32"), w)])  # llvmlite complains if it is first loaded in an exit handler
def step():
    sgd.begin_step([w])
    sgd.push(w, np.full(5000, 0.5, "float32"))
    sgd.end_step()
    sys.stdout.write(f"at {w.numpy()[[0, -1]].tolist()}\\n")
    sys.stdout.flush()
checkpointer = distopt.checkpoint.Checkpointer(sys.argv[1], optimizer=sgd, variables=[w])
def save():
    checkpointer.save()
    checkpointer.wait()
"""
STREAMS_AT_EXIT = {
    "the first": ("atexit.register(step)", 1),
    "a later one": ("step()\natexit.register(step)", 2),
    "of one replica, the others are not at their end": ("atexit.register(step) if first else step()", 1),
    "a later one, after the threads' end": ("import atexit, distopt\natexit.register(lambda: step())|step()", 2),
    "of one replica, later": ("step()\natexit.register(step) if first else step()", 2),
}


@pytest.mark.parametrize("calls", STREAMS_AT_EXIT)
def test_a_streamed_step_in_an_exit_handler_needs_no_new_thread(calls, tmp_path):
    call, steps = STREAMS_AT_EXIT[calls]
    before, _, after = call.rpartition("|")
    script = f"{before}\n{STEPS}{after}\n{WITHOUT_THREADS_AT_EXIT}"
    result = run_replicas(2, script, [str(tmp_path)], env=ENVIRONMENT | {"DISTOPT_BUCKET_BYTES": "1000"})
    assert result.status == 0, result.text
    assert [result.output.count(f"at [{-k}.0, {-k}.0]") for k in range(1, steps + 1)] == [2] * steps
    assert "Traceback" not in result.errors


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("calls", ["atexit.register(save)", "atexit.register(checkpointer.save)"])
def test_a_checkpoint_in_an_exit_handler_needs_no_new_thread(calls, count, tmp_path):
    script = f"{STEPS}step()\n{calls}\n{WITHOUT_THREADS_AT_EXIT}"
    result = job(script, count, [str(tmp_path)])
    assert result.status == 0, result.text
    assert "Traceback" not in result.errors
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_a_checkpoint_that_fails_in_an_exit_handler_is_told(tmp_path):
    broken = "distopt.checkpoint.writer.write_tensors = lambda *_: int('no room')"
    script = f"{STEPS}step()\n{broken}\natexit.register(checkpointer.save)\n"
    result = job(f"import distopt.checkpoint.writer\n{script}{WITHOUT_THREADS_AT_EXIT}", arguments=[str(tmp_path)])
    assert "the last checkpoint could not be written: ValueError" in result.errors


def test_a_replica_that_has_called_nothing_is_missed_by_those_who_call():
    head = "import distopt\nfirst = distopt.process.launcher.launched().rank == 0\n"
    result = job(f"{head}{WITHOUT_THREADS_AT_EXIT}if not first: distopt.barrier()\n", replicas=3)
    assert result.status != 0
    assert "ReplicaLeftError: replica 0 of 3 has ended" in result.errors
    assert "RuntimeError" not in result.errors


def test_a_replica_that_uses_mpi_and_leaves_is_missed():
    script = "from mpi4py import MPI\nimport distopt\nif MPI.COMM_WORLD.rank == 0:\n    distopt.barrier()\n"
    result = job(script)
    assert result.status != 0
    assert "ReplicaLeftError: replica 1 of 2 has ended" in result.errors


def test_a_place_that_one_replica_asks_for_is_an_error_on_it():
    result = job("import distopt\nif distopt.replica_index() == 0:\n    print(distopt.get_strategy().location)\n")
    assert result.status != 0
    assert "ReplicaLeftError: replica 1 of 2 has ended" in result.errors
    result = job("import distopt\ndistopt.get_strategy().location if distopt.replica_index() else distopt.barrier()\n")
    assert result.status != 0
    assert "call: replica 1: location" in result.errors


def test_a_script_may_finalise_mpi_itself():
    result = job("import distopt\nfrom mpi4py import MPI\ndistopt.barrier()\nMPI.Finalize()\nprint('done')\n")
    assert result.status == 0, result.text
    assert result.output.count("done") == 2
    result = job("import distopt\nfrom mpi4py import MPI\ndistopt.barrier()\nMPI.Finalize()\nint('late')\n")
    assert result.status != 0
    assert "ValueError" in result.errors


NOT_INITIALISED = "import mpi4py\nmpi4py.rc.initialize = False\nfrom mpi4py import MPI\nimport distopt\n"


def test_mpi_that_the_script_does_not_initialise():
    result = job(f"{NOT_INITIALISED}distopt.barrier()\n")
    assert result.status != 0
    assert "InvalidArgumentError: a replica of this job needs MPI" in result.errors
    assert "call MPI.Init_thread() before" in result.errors
    result = job(f"{NOT_INITIALISED}print('unused')\n")
    assert (result.status, result.output.count("unused")) == (0, 2), result.text
    result = job(f"{NOT_INITIALISED}MPI.Init_thread()\nprint(distopt.all_reduce(1.0))\nMPI.Finalize()\n")
    assert (result.status, result.output.count("2.0")) == (0, 2), result.text


def test_mpi_that_the_script_has_finalised_before_its_first_use():
    result = job("import distopt\nfrom mpi4py import MPI\nMPI.Finalize()\ndistopt.barrier()\n")
    assert result.status != 0
    assert "DeadCommunicatorError: the script has called MPI.Finalize()" in result.errors


def test_an_exit_that_was_caught_is_no_failure():
    script = (
        "import sys, distopt\ndistopt.barrier()\ntry:\n    sys.exit(2)\nexcept SystemExit as error:\n"
        "    sys.stdout.write(f'caught {error.code}\\n')\n"
    )
    result = job(script)
    assert result.status == 0, result.text
    assert result.output.count("caught 2") == 2


@pytest.mark.parametrize(("argument", "status"), [("7", 7), ("'reason'", 1), ("None", 0), ("", 0)])
def test_an_exit_that_was_not_caught_counts(argument, status):
    result = job(f"import sys, distopt\ndistopt.barrier()\nsys.exit({argument})\n")
    assert (result.status == 0) == (status == 0), result.text
    assert (f"called sys.exit({status})" in result.errors) == (status != 0)


def test_a_failure_inside_a_step_that_was_caught_is_named():
    script = """
import numpy as np, distopt
w = distopt.Variable(np.zeros(3, "float32"))
def aggregate(grads_and_vars):
    if distopt.replica_index() == 1:
        raise KeyError("aggregate")
    return distopt.aggregators.Sum()(grads_and_vars)
try:
    distopt.optimizers.SGD(gradient_aggregator=aggregate).apply_gradients([(np.ones(3, "float32"), w)])
except KeyError:
    pass
"""
    result = job(script)
    assert result.status != 0
    assert "Replica 1 failed: ended after a failure inside a step (it was caught)" in result.errors
    assert "sys.exit" not in result.errors


def test_forked_children_are_no_replicas():
    script = """
import os, multiprocessing, threading, distopt
def fail():
    thread = threading.Thread(target=int, args=("in the child",))
    thread.start()
    thread.join()
first = distopt.process.launcher.launched().rank == 0
if first:  # one replica alone: a launcher may mix what several print
    child = os.fork()
    if child == 0:
        raise ValueError("in the child")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
distopt.barrier()
if first:
    process = multiprocessing.get_context("fork").Process(target=fail)
    process.start()
    process.join()
distopt.barrier()
print("done")
"""
    result = job(script)
    assert result.status == 0, result.text
    assert result.output.count("done") == 2
    assert result.errors.count("ValueError: ") == 2
    assert "Replica" not in result.errors


def test_two_threads_of_one_replica_do_not_mix_their_messages():
    script = """
import threading, distopt
used, release, refused = threading.Event(), threading.Event(), []
def use():
    distopt.barrier()
    used.set()
    release.wait()
thread = threading.Thread(target=use, name="trainer")
thread.start()
used.wait()
try:
    distopt.barrier()
except distopt.errors.ReplicaError as error:
    refused.append(str(error))
release.set()
thread.join()
assert "thread 'trainer' uses this communicator" in refused[0]
assert distopt.all_reduce(1.0) == 2  # the trainer has ended
print("done")
"""
    result = job(script)
    assert result.status == 0, result.text
    assert result.output.count("done") == 2
