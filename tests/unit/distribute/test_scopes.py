"""Scopes belong to threads: which strategy a thread is in, and what is made in a scope stays with it."""

import contextvars
import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import distopt
from distopt import Strategy, Variable, get_strategy, simulate
from distopt.checkpoint import Checkpointer
from distopt.data import batches, join
from distopt.distribute import LocalCommunicator, ThreadCommunicator
from distopt.distribute.transports.threads import Hub
from distopt.losses import MeanSquaredError
from distopt.optimizers import SGD, Adam, legacy


def alone():
    return Strategy(LocalCommunicator())


def in_a_thread(function, *arguments):
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *arguments).result(timeout=30)


def test_a_thread_uses_the_scope_that_it_has_entered():
    def enter():
        before = get_strategy()
        with inner.scope():
            inside = get_strategy()
        return before, inside, get_strategy()

    outer, inner = alone(), alone()
    with outer.scope():
        assert in_a_thread(enter) == (outer, inner, outer)
        assert get_strategy() is outer


def test_the_scope_of_a_thread_is_nobody_elses():
    entered, looked = threading.Event(), threading.Event()

    def enter():
        with alone().scope():
            entered.set()
            assert looked.wait(30)

    before = get_strategy()
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(enter)
        assert entered.wait(30)
        try:
            assert get_strategy() is before
            assert in_a_thread(get_strategy) is before
        finally:
            looked.set()
        done.result(timeout=30)


def test_a_thread_that_is_given_the_context_is_in_the_scope_of_who_started_it():
    def start():
        with inner.scope():
            return in_a_thread(contextvars.copy_context().run, get_strategy)

    inner = alone()
    with alone().scope():
        assert in_a_thread(start) is inner


def test_scopes_that_end_in_another_order():
    def generator(strategy):
        with strategy.scope():
            yield

    first, second, before = alone(), alone(), get_strategy()
    blocks = [generator(first), generator(second)]
    for block in blocks:
        next(block)
    blocks[0].close()
    assert get_strategy() is second
    assert in_a_thread(get_strategy) is second
    blocks[1].close()
    assert get_strategy() is before
    assert in_a_thread(get_strategy) is before


def test_a_thread_of_a_simulated_replica_uses_the_scope_of_that_replicas_thread():
    def step():
        run = contextvars.copy_context().run  # before the scope: only the replica
        with alone().scope() as mine:
            return in_a_thread(run, get_strategy) is mine

    assert simulate(2, step) == [True, True]


def train(number, steps=20):
    """Train without a name or a seed, as two threads count alike only if each counts for itself."""
    draws = distopt.initializers.RandomUniform()
    w, b = Variable(draws((40, 3))), Variable(np.zeros(3, np.float32))
    optimizer, loss = [Adam, legacy.Adam][number](0.1), MeanSquaredError()
    x, y = np.full((8, 40), 1.0 + number, np.float32), np.zeros((8, 3), np.float32)
    for batch in batches((x, y), global_batch_size=3 + number, epochs=steps):
        local_x, local_y = batch.arrays
        with distopt.GradientTape() as tape:
            value = loss(local_y, local_x @ w + b)
        optimizer.apply_gradients(zip(tape.gradient(value, [w, b]), [w, b], strict=True))
        distopt.all_reduce(1.0)
    return w.name, b.name, distopt.digest([w, b])


@pytest.mark.timeout(60)
def test_two_threads_with_a_strategy_each_train_side_by_side(recwarn):
    hubs = [Hub(3), Hub(3)]

    def in_scope(index, number):
        with Strategy(ThreadCommunicator(hubs[number], index)).scope():
            return train(number)

    def side_by_side():
        index = distopt.replica_index()
        order = [0, 1] if index else [1, 0]  # who begins first differs
        with ThreadPoolExecutor(2) as threads:
            done = {k: threads.submit(contextvars.copy_context().run, in_scope, index, k) for k in order}
            return [done[k].result() for k in (0, 1)]

    results = simulate(3, side_by_side)
    assert results[0] == results[1] == results[2]
    assert results[0][0] == simulate(3, train, 0)[0]
    assert not recwarn.list  # the replicas drew the same initial values


OWNED = {
    "optimizer": lambda: SGD(1.0),
    "legacy optimizer": lambda: legacy.SGD(1.0),
}


@pytest.mark.parametrize("kind", OWNED)
def test_an_optimizer_steps_in_the_scope_in_which_it_was_made(kind):
    def step():
        inside = Variable([0.0])
        with alone().scope():
            optimizer = OWNED[kind]()
            seen = []
            observing = OWNED[kind]()
        optimizer.apply_gradients([([1.0], inside)])
        copied, pickled = copy.deepcopy(optimizer), pickle.loads(pickle.dumps(OWNED[kind]()))
        copied.apply_gradients([([1.0], inside)])
        anywhere = Variable([0.0])
        pickled.apply_gradients([([1.0], anywhere)])
        observing.begin_step([anywhere])
        observing.push(anywhere, [1.0])
        observing.end_step()
        seen.append(get_strategy().num_replicas_in_sync)
        return float(inside[0]), float(anywhere[0]), seen

    assert simulate(3, step) == [(-2.0, -4.0, [3])] * 3


def test_an_optimizer_made_outside_follows_the_scope_of_each_step():
    def step():
        optimizer, v = SGD(1.0), Variable([0.0])
        with alone().scope():
            optimizer.apply_gradients([([1.0], v)])
        optimizer.apply_gradients([([1.0], v)])
        return float(v[0])

    assert simulate(3, step) == [-4.0] * 3


def test_hooks_work_among_the_replicas_of_their_optimizer():
    def step():
        v, seen = Variable([0.0]), []

        def aggregate(pairs):
            seen.append(distopt.num_replicas())
            return [(distopt.all_reduce(gradient), variable) for gradient, variable in pairs]

        with alone().scope():
            optimizer = SGD(1.0, gradient_aggregator=aggregate)
        optimizer.apply_gradients([([1.0], v)])
        return seen, float(v[0])

    assert simulate(3, step) == [([1], -1.0)] * 3


def test_data_metrics_and_checkpoints_stay_in_the_scope_in_which_they_were_made(tmp_path):
    def use():
        index = distopt.replica_index()
        with alone().scope():
            data, joined, mean = (
                batches(np.arange(6), global_batch_size=6),
                join([np.arange(index)]),
                distopt.metrics.Mean(),
            )
            w = Variable([float(index)], name="w")
            saved = Checkpointer(tmp_path / str(index), variables=[w])
        mean.update(float(index))
        with saved:
            saved.save()
        return len(next(iter(data)).arrays), len(list(joined)), mean.result()

    assert simulate(2, use) == [(6, 1, 0.0), (6, 1, 1.0)]
