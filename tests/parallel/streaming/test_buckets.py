"""Buckets of a streamed step are summed before it ends, by one thread; copies go on without it."""

import copy
import gc
import os
import pickle
import threading

import numpy as np
import pytest
from parallel.caught import assert_same_bits, caught, rough_numbers, tree_sum, warned
from parallel.streaming.streamed import (
    BUCKETS,
    SHAPES,
    apply,
    communication,
    digests,
    gradients_of,
    new_variables,
    placed,
    placements,
    stream,
    thread_of,
)

import distopt
from distopt.errors import InvalidArgumentError
from distopt.optimizers import SGD, Adam, legacy

PATIENCE = 30.0


def test_a_measured_size_is_the_same_everywhere(few, monkeypatch, capfd):
    monkeypatch.delenv(BUCKETS)

    def steps(how):
        variables, optimizer = new_variables([(300, 300)] * 5), SGD(learning_rate=1.0)
        how(optimizer, variables, gradients_of(variables))
        return distopt.digest(variables), [sums.bucket_of for sums in communication(optimizer)]

    there = placed(few, placements(few.count)[1])  # between nodes there are always buckets
    streamed, plain = there(steps, stream), there(steps, apply)
    assert streamed == streamed[:1] * few.count
    assert list(streamed[0][1][0]) == list(range(5))
    assert [bits for bits, _ in streamed] == [bits for bits, _ in plain]
    assert capfd.readouterr().err.count("gradients are summed in buckets of") <= 1  # at most once, on replica 0


def test_without_a_free_core_sums_wait_for_the_end(few, monkeypatch):
    monkeypatch.delenv(BUCKETS)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})

    def steps(how):
        variables, optimizer = new_variables(), SGD(learning_rate=1.0)
        how(optimizer, variables, gradients_of(variables))
        return distopt.digest(variables), len(communication(optimizer))

    streamed, plain = few(steps, stream), few(steps, apply)
    assert streamed == plain == [(plain[0][0], 0)] * few.count


@pytest.mark.parametrize("text", ["abc", "0", "-1", "1.5", "²"])
def test_a_size_that_is_none_is_an_error_everywhere(few, monkeypatch, text):
    monkeypatch.setenv(BUCKETS, text)

    def step():
        variables, optimizer = new_variables(), SGD(learning_rate=1.0)
        failure = caught(optimizer.begin_step, variables)
        apply(optimizer, variables, gradients_of(variables))
        return failure, int(optimizer.iterations)

    for failure, iterations in few(step):
        assert failure.kind is InvalidArgumentError
        assert f"DISTOPT_BUCKET_BYTES={text!r}: expected a number of bytes" in failure.text
        assert iterations == 1


def test_a_bucket_is_summed_before_the_step_ends(few):
    def step():
        variables, optimizer = new_variables(), SGD(learning_rate=1.0)
        optimizer.begin_step(variables)
        gradients, before = gradients_of(variables), digests(variables, optimizer)
        optimizer.push(variables[1], gradients[1])  # full, but not the next one
        optimizer.push(variables[0], gradients[0])
        (sums,) = communication(optimizer)
        with sums._changed:
            assert sums._changed.wait_for(lambda: sums._next == 2, PATIENCE)
        distopt.barrier()
        early = [buffer.copy() for buffer in optimizer.gradient_buffers(variables)[:2]]
        unchanged = digests(variables, optimizer) == before
        for v, gradient in zip(variables[2:], gradients[2:], strict=True):
            optimizer.push(v, gradient)
        optimizer.end_step()
        return early, unchanged, [v.numpy() for v in variables]

    for nodes in placements(few.count):
        outcomes = placed(few, nodes)(step)
        totals = [
            tree_sum([rough_numbers(r, int(np.prod(shape)), "float32") for r in range(few.count)]) for shape in SHAPES
        ]
        for k in range(2):  # every element lies summed on its owner
            assert np.any([early[k] == totals[k] for early, _, _ in outcomes], axis=0).all()
        for _, unchanged, values in outcomes:
            assert unchanged
            for value, total in zip(values, totals, strict=True):
                assert_same_bits(value, np.float32(0.5) - total.reshape(value.shape))


# Threads and copies


def test_the_communication_thread_ends_with_its_optimizer(few):
    threads = []

    def steps():
        variables, optimizer = new_variables(), SGD(learning_rate=1.0)
        stream(optimizer, variables, gradients_of(variables))
        optimizer.begin_step(variables)  # one that waits for gradients that never come
        threads.extend(thread_of(sums) for sums in communication(optimizer))
        return len(threads)

    for nodes in placements(few.count)[:2]:
        placed(few, nodes)(steps)
    gc.collect()
    assert len(threads) == 2 * (few.count if few.transport == "threads" else 1)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_one_thread_serves_all_steps(few):
    def steps():
        variables, optimizer = new_variables(), SGD(learning_rate=1.0)
        threads = set()
        for number in range(4):
            stream(optimizer, variables, gradients_of(variables, number))
            threads |= {thread_of(sums) for sums in communication(optimizer)}
        return len(threads), threading.current_thread() in threads

    assert few(steps) == [(1, False)] * few.count


@pytest.mark.parametrize("family", [Adam, legacy.Adam])
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
@pytest.mark.parametrize("is_open", [False, True], ids=["between steps", "in a step"])
def test_a_copy_goes_on_to_the_bit(few, family, clone, is_open):
    def steps():
        variables, optimizer = new_variables(), family(learning_rate=0.1)
        stream(optimizer, variables, gradients_of(variables))
        if is_open:
            optimizer.begin_step(variables)
            optimizer.push(variables[0], gradients_of(variables)[0])
        others, twin = clone((variables, optimizer))
        no_step = caught(twin.end_step)
        twin.begin_step()  # over the copied variables
        for v, gradient in zip(others, gradients_of(others, 1), strict=True):
            twin.push(v, gradient)
        twin.end_step()
        stream(optimizer, variables, gradients_of(variables, 1))
        same = digests(variables, optimizer) == digests(others, twin)
        return no_step.kind, same, np.array_equal(variables[0].numpy(), np.full(10, 0.5))

    assert few(steps) == [(InvalidArgumentError, True, False)] * few.count


@pytest.mark.parametrize("family", [Adam, legacy.Adam])
def test_a_copy_of_the_optimizer_alone_steps_the_same_variables(few, family):
    def steps():
        variables, optimizer = new_variables(), family(learning_rate=0.1)
        gradients = gradients_of(variables)
        gradients[2] = None  # a variable that has no slots yet
        stream(optimizer, variables, gradients)
        twin = copy.deepcopy(optimizer)
        twin.begin_step()
        for v in variables:
            twin.push(v, np.ones(v.shape, "float32"))
        return int(twin.end_step()), int(optimizer.iterations), bool((variables[2].numpy() != 0.5).all())

    outcomes, _ = warned(few, steps)
    assert outcomes == [(2, 1, True)] * few.count
