"""A replica that crashes in compiled code shows where; a thread that ends itself is no failure."""

import re
from itertools import product

import pytest
from quick import cases
from support import DISTOPT, run, script_file

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}
TRAINING = """
import ctypes, sys, threading
import numpy as np, distopt
w = distopt.Variable(np.zeros(1000, "float32"), name="w")
optimizer = distopt.optimizers.SGD(0.1)
def step():
    optimizer.apply_gradients([(np.ones(1000, "float32"), w)])
def in_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()
def load_batch():
    ctypes.string_at(0)
step()
"""
CRASHES = {"main thread": "load_batch()", "another thread": "in_thread(load_batch)"}


def job(script, update):
    with script_file(TRAINING + script) as path:
        return run([DISTOPT, "run", "-n", "2", path], env=ENVIRONMENT | {"DISTOPT_UPDATE": update})


@pytest.mark.parametrize(
    ("where", "update"),
    cases(
        product(CRASHES, ["replicated", "shared"]),
        quick=[
            ("main thread", "replicated"),
            ("another thread", "shared"),
        ],
    ),
)
def test_the_python_stack_of_a_crash_is_shown(where, update):
    result = job(f"if distopt.replica_index() == 1: {CRASHES[where]}\nstep()\n", update)
    assert result.status != 0
    assert result.errors.count("Fatal Python error: Segmentation fault") == 1
    assert re.search(r"script\.py\", line \d+ in load_batch", result.errors)
    last = result.errors.rstrip().splitlines()[-1]
    assert re.fullmatch(r"distopt run: replica 1 \(pid \d+ on \S+\) was killed by signal 11 \(SIGSEGV\)", last)


@pytest.mark.parametrize("status", ["", "0", "3", "'enough'"])
def test_a_thread_that_exits_ends_alone(status):
    result = job(f"in_thread(lambda: sys.exit({status}))\nstep()\nprint('goes on', flush=True)\n", "replicated")
    assert result.status == 0, result.text
    assert result.output.count("goes on") == 2
    assert not result.errors.strip()
