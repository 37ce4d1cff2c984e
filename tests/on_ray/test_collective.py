"""Sums by ray.util.collective, for those who have PyTorch: right, in one group with ours, loud when they can't be."""

import numpy as np
import pytest
import ray
from on_ray.actors import Actor

import distopt
from distopt.aggregators import RayCollective
from distopt.errors import InvalidArgumentError

pytest.importorskip("torch", reason="Gloo is PyTorch's: make test-frameworks")
pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("cluster")]


@pytest.fixture(scope="module")
def actors():
    loopback = {"env_vars": {"GLOO_SOCKET_IFNAME": "lo"}}
    several = [Actor.options(runtime_env=loopback).remote() for _ in range(3)]
    yield several
    for actor in several:
        ray.kill(actor)


def as_replicas(actors, fn, *args):
    count, name = len(actors), f"{fn.__name__} {args}"
    return ray.get([a.replica.remote(r, count, name, fn, *args) for r, a in enumerate(actors)], timeout=150)


def train(dtype, group):
    index = distopt.replica_index()
    variables = [distopt.Variable(np.zeros(shape, dtype)) for shape in [(3, 50), (7,), ()]]
    optimizer = distopt.optimizers.SGD(0.5, gradient_aggregator=RayCollective(group, "gloo"))
    for _ in range(3):
        optimizer.apply_gradients([(np.full(v.shape, index + 1, dtype), v) for v in variables])
    return [v.numpy().astype("float64") for v in variables]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_gradients_are_summed(actors, dtype):
    for values in as_replicas(actors, train, dtype, f"sums of {dtype}"):
        for value in values:
            np.testing.assert_array_equal(value, -1.5 * (1 + 2 + 3))


def test_a_group_of_other_replicas_is_refused(actors):
    as_replicas(actors, train, "float32", "three")
    with pytest.raises(InvalidArgumentError, match=r"number \d of 3, here it is replica \d of 2"):
        as_replicas(actors[:2], train, "float32", "three")
