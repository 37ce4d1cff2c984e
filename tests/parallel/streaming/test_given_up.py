"""Streamed steps that are given up: the next ones are right, threads end, the others are told."""

import numpy as np
import pytest
from parallel.caught import ODD, caught, is_odd
from parallel.streaming.streamed import (
    apply,
    communication,
    digests,
    gradients_of,
    index,
    new_variables,
    placed,
    placements,
    stream,
    thread_of,
)

import distopt
from distopt import Variable
from distopt.errors import DamagedOptimizerError, ReplicaFailedError
from distopt.optimizers import SGD
from distopt.testing import SimulatedReplicas


@pytest.mark.parametrize("then", ["begin_step", "apply_gradients"])
def test_sums_of_a_step_that_was_given_up_do_not_reach_the_next(few, then):
    """Large gradients, pushed so quickly that their sums are still being made."""

    def steps():
        variables = [Variable(np.zeros(size, "float32")) for size in (10, 300_000, 500_000, 3)]
        optimizer, right = SGD(learning_rate=1.0), []
        for number in range(6):
            optimizer.begin_step(variables)
            for v in variables:
                optimizer.push(v, np.ones(v.shape, "float32"))
            how = stream if then == "begin_step" else apply
            how(optimizer, variables, [np.ones(v.shape, "float32") for v in variables])
            wanted = -distopt.num_replicas() * (number + 1)
            right.append(all((v.numpy() == wanted).all() for v in variables))
        return right, int(optimizer.iterations)

    for nodes in placements(few.count)[:2]:
        assert placed(few, nodes)(steps) == [([True] * 6, 6)] * few.count


def test_a_thread_that_was_given_up_has_ended(few):
    """Wherever it waited: for a gradient, for the others of its node, for a message of another node."""
    threads = []

    def steps():
        variables, optimizer = new_variables(), SGD(learning_rate=1.0)
        stream(optimizer, variables, gradients_of(variables))
        (sums,) = communication(optimizer)
        threads.append(thread_of(sums))
        optimizer.begin_step(variables)
        for v, gradient in list(zip(variables, gradients_of(variables), strict=True))[: 1 + index()]:
            optimizer.push(v, gradient)
        optimizer.begin_step(variables)
        threads_alive = thread_of(sums).is_alive()
        for v, gradient in zip(variables, gradients_of(variables), strict=True):
            optimizer.push(v, gradient)
        optimizer.end_step()
        return threads_alive

    for nodes in placements(few.count):
        assert placed(few, nodes)(steps) == [False] * few.count


def test_a_hook_that_fails_damages_the_optimizer(few):
    def steps():
        def broken(pairs):
            raise KeyError("a mistake in the hook")

        variables, optimizer = new_variables(), SGD(gradient_transformers=[broken])
        failures = [caught(stream, optimizer, variables, gradients_of(variables)) for _ in range(2)]
        return [failure.kind for failure in failures], float(distopt.all_reduce(1.0))

    assert few(steps) == [([KeyError, DamagedOptimizerError], few.count)] * few.count


# Simulated replicas that end


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("nodes", [None, "two"])
def test_a_backward_pass_that_fails_on_one_simulated_replica_ends_all(count, nodes):
    seen = {}

    def step():
        variables, optimizer = new_variables(), SGD()
        before = digests(variables, optimizer)
        optimizer.begin_step(variables)
        try:
            for k, v in enumerate(variables):
                if is_odd() and k == 2:
                    raise KeyError("a mistake in the backward pass")
                optimizer.push(v, gradients_of(variables)[k])
            optimizer.end_step()
        except Exception as error:
            seen[index()] = type(error), digests(variables, optimizer) == before
            raise

    with pytest.raises(KeyError, match="a mistake in the backward pass"):
        SimulatedReplicas(count, None if nodes is None else placements(count)[1])(step)
    assert seen == {r: (KeyError if r == ODD else ReplicaFailedError, True) for r in range(count)}
