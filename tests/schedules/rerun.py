"""``python tests/schedules/rerun.py SEED REPLICAS [TRANSPORT] [TIMES]``: show one program and run it again.

TRANSPORT is ``threads``, ``sockets`` or, under ``mpirun -n REPLICAS``, ``mpi``.
"""

import os
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from connected import ConnectedReplicas
from processes_as_replicas import process_replicas
from schedules.comparison import BUCKET_BYTES, first_difference
from schedules.programs import draw_program

from distopt.testing import SimulatedReplicas


def main(seed: str, replicas: str, transport: str = "threads", times: str = "1") -> None:
    """Run a program so many times."""
    program = draw_program(int(seed), int(replicas))
    ways = {
        "threads": lambda: SimulatedReplicas(program.replicas),
        "sockets": lambda: ConnectedReplicas((0,) * program.replicas),
        "mpi": lambda: process_replicas("mpi"),
    }
    print(program)
    for _ in range(int(times)):
        print(first_difference(program, ways[transport]()) or "right")


if __name__ == "__main__":
    os.environ.setdefault("DISTOPT_BUCKET_BYTES", BUCKET_BYTES)
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
