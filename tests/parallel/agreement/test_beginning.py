"""Where parameters begin; and calls that communicate nothing."""

import numpy as np
import pytest
from parallel.caught import caught, warned

import distopt
from distopt import IndexedSlices, Variable
from distopt.distribute import LocalCommunicator
from distopt.errors import InvalidArgumentError
from distopt.optimizers import SGD, Adam, legacy

both_families = pytest.mark.parametrize("family", [SGD, legacy.SGD])
all_families = pytest.mark.parametrize("family", [SGD, Adam, legacy.SGD, legacy.Adam, legacy.NonFusedAdam])


def index():
    return distopt.replica_index()


def begin_apart():
    """Two variables; all replicas have the same first one."""
    return Variable(np.ones(2), name="alike"), Variable(np.full(3, 1.0 + index()), name="apart")


@all_families
def test_the_first_step_begins_with_the_values_of_replica_0(replicas, family):
    def step(apart):
        v, w = begin_apart() if apart else (Variable(np.ones(2)), Variable(np.full(3, 1.0)))
        family(learning_rate=0.1).apply_gradients([(np.ones(2), v), (np.ones(3), w)])
        return distopt.digest([v, w])

    digests, messages = warned(replicas, lambda: step(True))
    assert set(digests) == set(replicas(step, False))
    assert len(messages) == (replicas.count > 1)
    for message in messages:
        assert "replica 1 began with other values than replica 0, first in variable 'apart'" in message


@both_families
def test_broadcast_false_keeps_replicas_apart(replicas, family):
    def step():
        with distopt.Strategy(distopt.get_strategy().communicator, broadcast=False).scope():
            v, w = begin_apart()
            family(learning_rate=0.5).apply_gradients([(np.ones(2), v), (np.ones(3), w)])
            return w.numpy().tolist()

    assert replicas(step) == [[1.0 + r - 0.5 * replicas.count] * 3 for r in range(replicas.count)]


@both_families
def test_a_call_without_aggregation_broadcasts_nothing(replicas, family):
    def step():
        v, w = begin_apart()
        optimizer, gradients = family(learning_rate=0.5), [(np.ones(2), v), (np.ones(3), w)]
        optimizer.apply_gradients(gradients, experimental_aggregate_gradients=False)
        own = w.numpy().tolist()
        optimizer.apply_gradients(gradients)
        return own, w.numpy().tolist()

    results, messages = warned(replicas, step)
    assert results == [([0.5 + r] * 3, [0.5 - 0.5 * replicas.count] * 3) for r in range(replicas.count)]
    assert len(messages) == (replicas.count > 1)


@pytest.mark.parametrize("family", [SGD, Adam])
def test_an_explicit_build_broadcasts(replicas, family):
    def build():
        variables = begin_apart()
        family(learning_rate=0.1).build(variables)
        return variables[1].numpy().tolist()

    results, messages = warned(replicas, build)
    assert results == [[1.0] * 3] * replicas.count
    assert len(messages) == (replicas.count > 1)


@all_families
def test_slots_of_a_restored_optimizer_are_those_of_replica_0(several, family):
    def step():
        v = Variable(np.ones(2), name="v")
        optimizer = family(learning_rate=0.1)
        for _ in range(1 + 2 * (index() == 0)):
            optimizer.apply_gradients([(np.full(2, 1.0 + index()), v)], experimental_aggregate_gradients=False)
        optimizer.apply_gradients([(np.ones(2), v)])
        state = optimizer.weights if hasattr(optimizer, "weights") else optimizer.variables
        return distopt.digest([v, *state]), int(optimizer.iterations)

    results, _ = warned(several, step)
    assert results == [(results[0][0], 4)] * several.count


# Calls that communicate nothing


class Silent(LocalCommunicator):
    """Claims to be one of four replicas, and fails when it is used."""

    size = 4

    def all_gather(self, mine, deadline=None):
        raise AssertionError("something was sent")

    def transfer(self, sends, receives):
        raise AssertionError("something was sent")


@all_families
def test_without_aggregation_nothing_is_sent(family):
    with distopt.Strategy(Silent()).scope():
        v, w = Variable(np.zeros((4, 2))), Variable(np.zeros(3))
        optimizer = family(learning_rate=0.1, clipvalue=0.5)
        rows = IndexedSlices(np.ones((1, 2)), [3], (4, 2))
        for gradient in (np.ones((4, 2)), rows):
            optimizer.apply_gradients([(gradient, v), (np.ones(3), w)], experimental_aggregate_gradients=False)
    assert int(optimizer.iterations) == 2
    assert (v.numpy()[3] < 0).all()


@both_families
def test_calls_without_aggregation_need_not_match(replicas, family):
    def steps():
        v, w = Variable(0.0), Variable([1.0, 2.0])
        optimizer = family(learning_rate=1.0)
        for _ in range(index()):
            optimizer.apply_gradients([(np.float32(1), v)], experimental_aggregate_gradients=False)
        if index() % 2:
            family(0.1).apply_gradients([(np.ones(2, "f4"), w)], experimental_aggregate_gradients=False)
        return float(v), float(distopt.all_reduce(1.0))

    assert replicas(steps) == [(-r, replicas.count) for r in range(replicas.count)]


@both_families
def test_items_without_aggregation_are_refused(replicas, family):
    def step():
        v, optimizer = Variable(0.0), family()
        return caught(lambda: optimizer.apply_gradients([(1.0, v)], experimental_aggregate_gradients=False, items=3))

    for failure in replicas(step):
        assert failure.kind is InvalidArgumentError
        assert "items=3" in failure.text
