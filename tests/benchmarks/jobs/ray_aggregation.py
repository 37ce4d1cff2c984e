"""ray_aggregation.py REPLICAS BYTES...: the sum in Ray actors beside Ray's own. Started by test_ray_aggregation.py."""

import json
import os
import sys

import numpy as np
import ray
from benchmarks.measure import FULL, medians
from ray.util import collective

import distopt
import distopt.ray
from distopt.aggregators import Sum


@ray.remote(num_cpus=1)
class Replica:
    """One of those that sum."""

    def measure(self, index, count, sizes):
        with distopt.ray.init_group(index, count, "benchmark"):
            collective.init_collective_group(count, index, "gloo", "gloo")
            return {str(size): medians_of(size, index) for size in sizes}


def medians_of(size, index):
    communicator = distopt.get_strategy().ready()
    ours, theirs = (np.full(size // 4, index + 1.0, np.float32) for _ in range(2))
    total = Sum().prepare(communicator, ours)
    total()
    collective.allreduce(theirs, "gloo")
    np.testing.assert_array_equal(ours, theirs)
    ours[:], theirs[:] = 0, 0
    rivals = {"ray.util.collective, Gloo": lambda: collective.allreduce(theirs, "gloo"), "distopt": total}
    inner = max(1, min(50, (1 << 21) // size))
    repeats = (61 if size < 1 << 22 else 15) if FULL else 3
    return medians(rivals, repeats, inner=inner, barrier=distopt.barrier)


count, sizes = int(sys.argv[1]), list(map(int, sys.argv[2:]))
# The loopback interface is Gloo's fastest here; more threads than cores slow both down.
variables = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
common = {"include_dashboard": False, "log_to_driver": False, "runtime_env": {"env_vars": variables}}
ray.init(address="local", num_cpus=count, **common)
replicas = [Replica.remote() for _ in range(count)]
rows = ray.get([replica.measure.remote(r, count, sizes) for r, replica in enumerate(replicas)])
print(json.dumps(rows[0]))
