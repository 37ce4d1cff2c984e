"""early.py KIND: replica 1 ends, or does not go on, before the program imports distopt or MPI; the others train."""

import os
import signal
import sys
import threading
import time

KIND = sys.argv[1]


def fail() -> None:
    if KIND == "missing":
        import not_there  # noqa: F401
    if KIND == "exit":
        raise SystemExit(3)
    if KIND == "leave":
        sys.exit()
    if KIND == "thread":
        thread = threading.Thread(target=lambda: int("boom"))
        thread.start()
        thread.join()
        threading.Event().wait()
    if KIND in ("vanish", "vanish with 5"):
        os._exit(0 if KIND == "vanish" else 5)
    if KIND == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if KIND == "hang":
        print(f"hangs in {os.getpid()}", flush=True)
        time.sleep(300)
    if KIND == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)


def train() -> None:
    import numpy as np

    import distopt

    variable = distopt.Variable(np.zeros(10, "float32"))
    optimizer = distopt.optimizers.SGD(0.1)
    for _ in range(3):
        optimizer.apply_gradients([(np.ones(10, "float32"), variable)])
    print("finished", distopt.replica_index())


if int(os.environ.get("PMI_RANK") or os.environ["OMPI_COMM_WORLD_RANK"]) == 1:
    fail()
if "MPI first" in sys.argv:
    from mpi4py import MPI  # noqa: F401
train()
