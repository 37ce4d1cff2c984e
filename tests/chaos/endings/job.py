"""job.py KIND PLACE SURROUNDING REPLICA FOLDER: two replicas train; one ends in some way at some place.

Before distopt is imported the standard library must do. Each replica leaves word in FOLDER of how far it is, as the
target of a link: that is there at once and as a whole, also where no file can be written.
"""

import atexit
import os
import resource
import signal
import sys
import tempfile
import threading
import time

KIND, PLACE, SURROUNDING, VICTIM, FOLDER = *sys.argv[1:4], int(sys.argv[4]), sys.argv[5]
PATIENCE_SECONDS, SPINS_SECONDS = 1.0, 0.3
RANK = next((int(os.environ[name]) for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK") if name in os.environ), None)
ON_RAY = RANK is None
if RANK is None:
    import ray.train

    RANK = ray.train.get_context().get_world_rank()
OTHER = 1 - RANK


def tell(word: str) -> None:
    os.symlink(f"{os.getpid()} {time.time()}", f"{FOLDER}/{word}-{RANK}")


def wait_for(word: str) -> int:
    """Wait until the other replica has told this; return its process id."""
    path = f"{FOLDER}/{word}-{OTHER}"
    while not os.path.islink(path):
        time.sleep(0.02)
    return int(os.readlink(path).split()[0])


def wait_until_in_mpi_init(pid: int) -> None:
    """Wait until a process that has no MPI yet waits in MPI_Init: MPICH spins there, Open MPI may sleep."""

    def burnt() -> float:
        with open(f"/proc/{pid}/stat") as file:
            return sum(map(int, file.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")

    def has_library() -> bool:
        with open(f"/proc/{pid}/maps") as file:
            return "libmpi" in file.read()

    while not has_library():
        time.sleep(0.02)
    before, end = burnt(), time.monotonic() + PATIENCE_SECONDS
    while burnt() < before + SPINS_SECONDS and time.monotonic() < end:
        time.sleep(0.02)


def surround() -> None:
    """Bring about the surrounding, as far as it is not that of the whole job."""
    if SURROUNDING == "stdout closed":
        sys.stdout.close()
    elif SURROUNDING == "stdout None":
        sys.stdout = None
    elif SURROUNDING == "stdout full":
        sys.stdout = open("/dev/full", "w")  # noqa: SIM115 (for the rest of the program)
        print("what the next flush fails to write")
    elif SURROUNDING == "stderr closed":
        sys.stderr.close()
    elif SURROUNDING == "temporary directory read-only":
        os.environ["TMPDIR"] = tempfile.tempdir = "/sys"  # for the administrator too


def fill() -> None:
    """Leave no room for files. Memory that replicas share counts as files: they must have it by now."""
    if SURROUNDING == "temporary directory full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def fail() -> None:
    if RANK == VICTIM:
        tell("fails")
        fill()
        ACTS[KIND]()


def raise_error() -> None:
    raise ValueError("b\xf6\xf6m \udc80" if SURROUNDING == "ASCII locale" else "boom")


def exit_with_3() -> None:
    raise SystemExit(3)


def raise_in_thread() -> None:
    """At exit it is a thread that outlives the main program; elsewhere the main thread goes on."""
    is_exit = PLACE == "at exit" and not ON_RAY
    main = threading.main_thread()
    threading.Thread(target=lambda: (is_exit and main.join(), raise_error()), name="loader").start()
    if not is_exit:
        hang()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hang() -> None:
    while True:
        time.sleep(0.05)


ACTS = {
    "exception": raise_error,
    "SystemExit": exit_with_3,
    "exception in a thread": raise_in_thread,
    "kill": kill,
    "stop": stop,
    "hang": hang,
}
tell("began")
surround()
if PLACE == "before the import":
    fail()

import numpy as np  # noqa: E402

import distopt  # noqa: E402

if PLACE == "before MPI_Init" and RANK == VICTIM:
    wait_until_in_mpi_init(wait_for("imported"))
    fail()
if PLACE == "in MPI_Init" and RANK != VICTIM:
    pid = wait_for("imported")
    wait_until_in_mpi_init(pid)
    tell("fails")
    os.kill(pid, {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[KIND])
tell("imported")
if not ON_RAY:
    from mpi4py import MPI  # noqa: F401 (initialises it)
if PLACE == "before the first call":
    fail()

steps = []


def aggregate(grads_and_vars):
    steps.append(1)
    if len(steps) == 2:
        fill()
        if PLACE == "in a step":
            fail()
    return distopt.aggregators.Sum()(grads_and_vars)


variable = distopt.Variable(np.zeros(1000, "float32"), name="w")
optimizer = distopt.optimizers.SGD(0.1, gradient_aggregator=aggregate)
for _ in range(4):
    optimizer.apply_gradients([(np.ones(1000, "float32"), variable)])
if RANK == VICTIM:
    wait_for("ends")
    if KIND in ("kill", "stop", "hang") and not ON_RAY:
        atexit.register(fail)
    else:
        fail()
else:
    tell("ends")
