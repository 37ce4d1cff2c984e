"""aggregation.py BYTES...: the sum over replicas beside the MPI library's own. Started by test_aggregation.py."""

import json
import sys

import numpy as np
from benchmarks.measure import FULL, medians
from mpi4py import MPI

import distopt
from distopt.distribute.agreement.header import Brought, Call, agree
from distopt.distribute.agreement.summation import Summation

communicator = distopt.get_strategy().ready()
world = MPI.COMM_WORLD.Dup()
call = Call("benchmark")
rows = {}
for size in map(int, sys.argv[1:]):
    ours, theirs = np.zeros(size // 4, np.float32), np.zeros(size // 4, np.float32)
    rivals = {
        "MPI Allreduce": lambda array=theirs: world.Allreduce(MPI.IN_PLACE, array),
        "sum": Summation(communicator, ours),
        "header": lambda: agree(communicator, call, Brought(call_digest=1)),
    }
    inner = max(1, min(50, (1 << 21) // size))
    repeats = (61 if size < 1 << 22 else 15) if FULL else 3
    rows[str(size)] = medians(rivals, repeats, inner=inner, barrier=world.Barrier)
if world.rank == 0:
    print(json.dumps(rows))
