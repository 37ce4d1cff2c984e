"""victim.py KIND PLACE REPLICA: train for six steps; one replica fails in some way at some place."""

import os
import signal
import sys
import threading
import time

import numpy as np

import distopt
from distopt.process.launcher import launched

KIND, PLACE, VICTIM = sys.argv[1], sys.argv[2], int(sys.argv[3])
RANK = launched().rank


def fail() -> None:
    if RANK != VICTIM:
        return
    print(f"failing at {time.time()}", flush=True)
    if KIND == "raise":
        raise ValueError("boom")
    if KIND == "thread":
        thread = threading.Thread(target=lambda: int("boom"))
        thread.start()
        thread.join()
        threading.Event().wait()  # the main thread goes on: the job must end all the same
    if KIND == "exit":
        sys.exit(3)
    if KIND == "leave":
        sys.exit(0)
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "crash": signal.SIGSEGV}[KIND])


if PLACE == "before MPI":
    fail()
variable = distopt.Variable(np.zeros(100_000, "float32"), name="w")
calls = []


def hook(grads_and_vars):
    calls.append(1)
    if PLACE == "in a step" and len(calls) == 3:
        fail()
    return distopt.aggregators.Sum()(grads_and_vars)


optimizer = distopt.optimizers.SGD(0.1, gradient_aggregator=hook if PLACE == "in a step" else None)
if PLACE == "before the first step":
    distopt.num_replicas()
    fail()
for step in range(6):
    optimizer.apply_gradients([(np.ones(100_000, "float32"), variable)])
    if PLACE == "between steps" and step == 2:
        fail()
print("finished", RANK)
