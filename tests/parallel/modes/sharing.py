"""What the tests of shared mode share: variables, and steps of all replicas."""

import numpy as np

import distopt
from distopt import Strategy, Variable


def index():
    return distopt.replica_index()


def shared(fn, *args, update="shared"):
    """Call a function under a strategy of this mode."""
    with Strategy(distopt.get_strategy().communicator, update=update).scope():
        return fn(*args)


def variables():
    return [Variable(np.full(shape, 0.5), dtype=dtype, name=dtype) for shape, dtype in ((300, "f4"), ((90, 299), "f8"))]


def steps(optimizer, chosen, count, first=0):
    """Steps whose gradients depend on the step and on the replica."""
    for k in range(first, first + count):
        rng = np.random.default_rng([k, index()])
        optimizer.apply_gradients([(rng.normal(size=v.shape).astype(v.dtype), v) for v in chosen])
