"""The user's hooks in a step: aggregators and transformers."""

import numpy as np
import pytest
from parallel.caught import caught

import distopt
from distopt import Variable
from distopt.errors import DamagedOptimizerError, ReplicaFailedError
from distopt.optimizers import SGD, legacy

both_families = pytest.mark.parametrize("family", [SGD, legacy.SGD])


def index():
    return distopt.replica_index()


@both_families
def test_an_aggregator_sees_the_same_list_on_every_replica(replicas, family):
    def step():
        seen = []

        def aggregator(pairs):
            seen.append([(v.name, type(g).__name__, g.shape) for g, v in pairs])
            seen.append([float(np.sum(np.asarray(g))) for g, v in pairs])
            return [(distopt.all_reduce(g), v) for g, v in pairs]

        a, b, c = (Variable(np.zeros(3), name=name) for name in "abc")
        optimizer = family(learning_rate=1.0, gradient_aggregator=aggregator)
        has_b = index() == replicas.count - 1
        pairs = [(np.ones(3), a), (np.full(3, 7.0) if has_b else None, b), (np.ones(3), c)]
        optimizer.apply_gradients(pairs)
        return seen, b.numpy().tolist()

    for r, (seen, b) in enumerate(replicas(step)):
        assert seen[0] == [(name, "ndarray", (3,)) for name in "abc"]
        assert seen[1] == [3.0, 21.0 if r == replicas.count - 1 else 0.0, 3.0]
        assert b == [-7.0] * 3


@both_families
def test_hooks_may_use_the_public_collectives(replicas, family):
    def step():
        def mean(pairs):
            return [(distopt.all_gather(g).mean(0), v) for g, v in pairs]

        def largest_counts(pairs):
            distopt.barrier()
            return [(g * distopt.all_reduce(float(index()), "max") + distopt.broadcast(0.0), v) for g, v in pairs]

        v = Variable(np.zeros(2))
        optimizer = family(learning_rate=1.0, gradient_aggregator=mean, gradient_transformers=[largest_counts])
        optimizer.apply_gradients([(np.full(2, index() + 1.0), v)])
        return v.numpy()

    for value in replicas(step):
        np.testing.assert_allclose(value, [-(replicas.count + 1) / 2 * (replicas.count - 1)] * 2)


class Counting(distopt.aggregators.Aggregator):
    """The sum, and how often each variable was summed."""

    def __init__(self):
        self.builds = []

    def build(self, variables):
        self.builds.append([v.name for v in variables])
        self.counts = {v: Variable(np.int64(0), trainable=False) for v in variables}

    @property
    def variables(self):
        return list(self.counts.values())

    def __call__(self, pairs):
        for _, v in pairs:
            self.counts[v].assign_add(1)
        return [(distopt.all_reduce(g), v) for g, v in pairs]


@both_families
def test_an_aggregator_may_keep_state(replicas, family):
    def steps():
        aggregator = Counting()
        a, b = Variable(np.zeros(2), name="a"), Variable(0.0, name="b")
        optimizer = family(learning_rate=1.0, gradient_aggregator=aggregator)
        for _ in range(3):
            optimizer.apply_gradients([(np.ones(2), a), (np.float32(index()), b)])
        return aggregator.builds, [int(v) for v in aggregator.variables], a.numpy().tolist()

    assert replicas(steps) == [([["a", "b"]], [3, 3], [-3.0 * replicas.count] * 2)] * replicas.count


class Alone(distopt.aggregators.Aggregator):
    """No aggregation: replicas need not keep step."""

    lockstep = False

    def __call__(self, pairs):
        return pairs


@both_families
def test_an_aggregator_without_lockstep_sends_no_header(replicas, family):
    def steps():
        v = Variable(0.0)
        optimizer = family(learning_rate=1.0, gradient_aggregator=Alone())
        for _ in range(1 + 2 * index()):
            optimizer.apply_gradients([(np.float32(1), v)])
        distopt.barrier()
        return float(v)

    assert replicas(steps) == [-1.0 - 2 * r for r in range(replicas.count)]


@both_families
def test_a_hook_that_fails_damages_the_optimizer(replicas, family):
    def steps():
        def broken(pairs):
            raise KeyError("a mistake in the hook")

        v = Variable(0.0)
        optimizer = family(gradient_transformers=[broken])
        failures = [caught(optimizer.apply_gradients, [(np.float32(1), v)]) for _ in range(2)]
        return failures, float(distopt.all_reduce(1.0))

    for (first, second), total in replicas(steps):
        assert first.kind is KeyError
        assert second.kind is DamagedOptimizerError
        assert "a mistake in the hook" in second.text
        assert total == replicas.count


@pytest.mark.parametrize("count", [2, 4])
def test_a_hook_that_fails_on_one_simulated_replica_stops_the_others(count):
    failures = {}

    def step():
        def broken(pairs):
            if index() == 1:
                raise KeyError("a mistake on replica 1")
            return [(distopt.all_reduce(g), v) for g, v in pairs]

        try:
            SGD(gradient_aggregator=broken).apply_gradients([(np.float32(1), Variable(0.0))])
        except Exception as error:
            failures[index()] = type(error)
            raise

    with pytest.raises(KeyError, match="a mistake on replica 1"):
        distopt.simulate(count, step)
    assert failures == {r: KeyError if r == 1 else ReplicaFailedError for r in range(count)}
