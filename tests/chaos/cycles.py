"""cycles.py KILLS SEED REPLICAS: kill a small job and go on from its checkpoints, again and again; compare.

A life of the job is a process forked from this one, which has imported everything: that makes it cheap. It is killed
(SIGKILL) at a random moment: half of the lives at a random time, half at a random file operation of the thread that
writes checkpoints. The next life restores; when a job has reached its end, its bits must be those of one that was
never killed, and the next job begins. Several replicas are simulated.
"""

import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import distopt
from distopt.checkpoint import Checkpointer
from distopt.memory.digests import digest

# A process that is killed takes nothing of a file system with it: no disk has to sync thousands of files.
FOLDER = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
FILE_OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir")
EPOCHS, EXAMPLES, BATCH = 3, 50, 6
STEPS = EPOCHS * -(-EXAMPLES // BATCH)


def train(folder: Path) -> str:
    """One life: from the newest checkpoint to the end, in the middle of epochs too."""
    generator = np.random.default_rng(5)
    x = np.linspace(-1, 1, EXAMPLES * 20, dtype="float32").reshape(EXAMPLES, 20)
    w = distopt.Variable(np.full((20, 300), 0.1, "float32"), name="w")
    b = distopt.Variable(np.zeros(300, "float32"), name="b")
    optimizer = distopt.optimizers.Adam(0.01)
    data = distopt.data.batches(x, global_batch_size=BATCH, epochs=EPOCHS, seed=3)
    with Checkpointer(folder, optimizer=optimizer, variables=[w, b], data=data, random=[generator]) as checkpointer:
        checkpointer.restore()
        for batch in data:
            noisy = batch.arrays + generator.normal(0, 0.1, (BATCH, 20))[: batch.items].astype("float32")
            slope = np.tanh(noisy @ w.numpy() + b.numpy())
            optimizer.apply_gradients([(noisy.T @ slope / batch.global_size, w), (slope.sum(0), b)])
            checkpointer.save_every(1)
    assert int(optimizer.iterations) == STEPS
    return digest([w, b, *optimizer.variables])


def live(folder: Path, replicas: int, moment: float | None, operation: int | None) -> str | None:
    """Fork a life; return its digest, or None where it was killed.

    Args:
        folder: of the checkpoints.
        replicas: how many.
        moment: seconds after which it is killed, or None.
        operation: number of the file operation at which it is killed, or None.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        if operation is not None:
            die_at_file_operation(operation)
        try:
            text = distopt.simulate(replicas, train, folder)[0] if replicas > 1 else train(folder)
            os.write(writer, text.encode())
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    if moment is not None:
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    with open(reader, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert said or os.WIFSIGNALED(status), status
    return said or None


def die_at_file_operation(number: int) -> None:
    """Make this process kill itself at the n-th file operation of a thread that writes a checkpoint."""
    left = number

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in FILE_OPERATIONS and threading.current_thread().name == "distopt-checkpoint":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def main(kills: int, seed: int, replicas: int) -> None:
    """Go through so many kills."""
    lives = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="cycles-", dir=FOLDER) as folder:
        began = time.monotonic()
        expected = live(Path(folder), replicas, None, None)
        duration = time.monotonic() - began
    assert expected is not None
    assert ": " not in expected, expected
    done = jobs = 0
    while done < kills:
        with tempfile.TemporaryDirectory(prefix="cycles-", dir=FOLDER) as folder:
            outcome = None
            while outcome is None:
                at_a_time, moment, operation = lives.random() < 0.5, lives.uniform(0, duration), lives.randrange(1, 60)
                is_last = done == kills
                outcome = live(
                    Path(folder),
                    replicas,
                    moment if at_a_time and not is_last else None,
                    None if at_a_time or is_last else operation,
                )
                done += outcome is None
        assert outcome == expected, f"after {done} kills: {outcome} instead of {expected}"
        jobs += 1
    print(f"{done} kills, {jobs} jobs, each ended with {expected}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
