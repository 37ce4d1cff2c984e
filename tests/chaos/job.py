"""job.py STEPS [THREADS]: a few small steps, on the replicas of a launcher or on simulated ones; prints a digest.

Every step makes a public collective too, as a loop that logs its loss does. What ends a replica is printed under its
index.
"""

import contextlib
import os
import sys
import time

import numpy as np

import distopt
from distopt.memory.digests import digest

STEPS = int(sys.argv[1])
LEFT_OUT = int(os.environ.get("CHAOS_LEAVE_OUT", "-1"))  # what a step that all replicas skip amounts to
SIZE = 40_000  # every one of four replicas owns a part


def say(text: str) -> None:
    os.write(1, f"replica {distopt.replica_index()} {text}\n".encode())  # in one piece, whatever the others print


def train() -> None:
    try:
        say(f"ended with {steps()}")
    except BaseException as error:
        say(f"got {type(error).__name__}: {error}".replace("\n", " "))
        raise


def steps() -> str:
    w = distopt.Variable(np.linspace(-1, 1, SIZE, dtype="float32"), name="w")
    b = distopt.Variable(np.zeros(10, "float32"), name="b")
    optimizer = distopt.optimizers.SGD(0.1, momentum=0.9)
    say(f"trains since {time.time()}")
    with checkpoints(optimizer, [w, b]) as (done, save):
        for step in range(done, STEPS):
            scale = np.float32(1 + distopt.replica_index() + step)
            if step != LEFT_OUT:
                optimizer.apply_gradients([(scale * w.numpy(), w), (np.full(10, scale, "float32"), b)])
            distopt.all_reduce(float(np.abs(w.numpy()).max()))
            save()
    return digest([w, b])


@contextlib.contextmanager
def checkpoints(optimizer, variables):
    """The steps that a checkpoint in CHAOS_CHECKPOINTS has, and what saves the next; nothing where that is not set."""
    folder = os.environ.get("CHAOS_CHECKPOINTS")
    if folder is None:
        yield 0, lambda: None
        return
    from distopt.checkpoint import Checkpointer

    with Checkpointer(folder, optimizer=optimizer, variables=variables) as checkpointer:
        yield checkpointer.restore() or 0, checkpointer.save


if len(sys.argv) > 2:
    distopt.simulate(int(sys.argv[2]), train)
else:
    train()
