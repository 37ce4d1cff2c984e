"""What the tests of streamed steps share: variables, gradients, and ways to step."""

import numpy as np
import pytest
from parallel.caught import rough_numbers
from processes_as_replicas import process_replicas

import distopt
from distopt import Variable
from distopt.optimizers import SGD, legacy
from distopt.optimizers.common.access import engine_of
from distopt.testing import SimulatedReplicas

both_families = pytest.mark.parametrize("family", [SGD, legacy.SGD])


BUCKETS = "DISTOPT_BUCKET_BYTES"


SHAPES = [(10,), (5000,), (90, 70), (3,)]


def index():
    return distopt.replica_index()


def placed(replicas, nodes):
    """The same replicas, on pretended nodes: between those even simulated replicas and one machine send messages."""
    if nodes is None:
        return replicas
    if replicas.transport == "threads":
        return SimulatedReplicas(replicas.count, nodes)
    return process_replicas(replicas.transport, tuple(nodes))


def placements(count):
    """One node; two halves; nodes that share no subtree of the summation."""
    if count == 1:
        return [None]
    halves = tuple(int(2 * r >= count) for r in range(count))
    return [None, halves, tuple(r % 2 for r in range(count))]


def digests(variables, optimizer):
    """Of the parameters and of the whole state, the number of steps included."""
    return distopt.digest(variables), distopt.digest(optimizer.get_weights())


def new_variables(shapes=SHAPES):
    return [Variable(np.full(shape, 0.5), name=f"v{k}", dtype="float32") for k, shape in enumerate(shapes)]


def gradients_of(variables, seed=0):
    return [rough_numbers(index(), v.size, v.dtype, seed).reshape(v.shape) for v in variables]


def stream(optimizer, variables, gradients, order=None, items=None):
    optimizer.begin_step(variables)
    for k in range(len(variables)) if order is None else order:
        optimizer.push(variables[k], gradients[k])
    return optimizer.end_step(items)


def apply(optimizer, variables, gradients, order=None, items=None):
    return optimizer.apply_gradients(zip(gradients, variables, strict=True), items=items)


# Buckets


def communication(optimizer):
    """The communication threads of an optimizer."""
    return [plan.stream_in_use for plan in engine_of(optimizer).plans.values() if plan.stream_in_use is not None]


def thread_of(sums):
    return sums._thread
