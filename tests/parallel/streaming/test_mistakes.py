"""Mistakes in a streamed step are errors on all replicas, instead of hangs."""

import numpy as np
import pytest
from parallel.caught import ODD, caught, is_odd, rough_numbers, tree_sum
from parallel.streaming.streamed import (
    apply,
    both_families,
    digests,
    gradients_of,
    index,
    new_variables,
    placed,
    placements,
    stream,
)

import distopt
from distopt import IndexedSlices, Variable
from distopt.errors import CollectiveMismatchError, InvalidArgumentError, ReplicaFailedError
from distopt.optimizers import SGD, legacy


def right_step(optimizer, variables):
    """A streamed step after trouble, and what it should have done (SGD with the learning rate 1)."""
    before = [v.numpy() for v in variables]
    parts = [[rough_numbers(r, v.size, v.dtype, 99) for r in range(distopt.num_replicas())] for v in variables]
    stream(optimizer, variables, [part[index()].reshape(v.shape) for part, v in zip(parts, variables, strict=True)])
    return all(
        np.array_equal(v.numpy(), start - tree_sum(part).reshape(v.shape))
        for v, start, part in zip(variables, before, parts, strict=True)
    )


# Mistakes


@both_families
def test_calls_out_of_order(replicas, family):
    def steps():
        v, optimizer = Variable(np.zeros(3, "float32"), name="v"), family(learning_rate=1.0)
        before = [caught(optimizer.push, v, np.ones(3)), caught(optimizer.end_step), caught(optimizer.begin_step)]
        stream(optimizer, [v], [np.ones(3, "float32")])
        after = [caught(optimizer.push, v, np.ones(3)), caught(optimizer.end_step)]
        return before + after, v.numpy().tolist(), float(distopt.all_reduce(1.0))

    for failures, value, total in replicas(steps):
        assert {failure.kind for failure in failures} == {InvalidArgumentError}
        for failure, call in zip(failures, ["push", "end_step", "begin_step", "push", "end_step"], strict=True):
            assert failure.text.startswith(f"{call}: no ")
        assert value == [-replicas.count] * 3
        assert total == replicas.count


def twice(optimizer, variables):
    optimizer.push(variables[0], np.zeros(10, "float32"))


def foreign(optimizer, variables):
    optimizer.push(Variable(np.zeros(10, "float32"), name="stranger"), np.zeros(10, "float32"))


def no_variable(optimizer, variables):
    optimizer.push(np.zeros(3), np.zeros(10, "float32"))


def wrong_shape(optimizer, variables):
    optimizer.push(variables[1], np.zeros(4, "float32"))


def wrong_buffer(optimizer, variables):
    optimizer.push(variables[1], optimizer.gradient_buffers(variables)[2].reshape(-1)[:5000])


def no_array(optimizer, variables):
    optimizer.push(variables[1], "a gradient")


def negative_items(optimizer, variables):
    optimizer.end_step(items=-1)


MISTAKES = {
    twice: "'v0' was pushed before in this step",
    foreign: "'stranger' is none of this step's variables",
    no_variable: "received array([0., 0., 0.]) as a variable: expected a distopt.Variable",
    wrong_shape: "'v1' has shape (4,), and the variable (5000,)",
    wrong_buffer: "is the gradient buffer of another variable",
    no_array: "expected an array of numbers",
    negative_items: "items=-1: expected the number of items",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_on_one_replica_is_told_to_all_and_changes_nothing(few, mistake):
    def steps():
        variables, optimizer = new_variables(), SGD(learning_rate=1.0)
        stream(optimizer, variables, gradients_of(variables))
        before = digests(variables, optimizer)
        optimizer.begin_step(variables)
        optimizer.push(variables[0], gradients_of(variables)[0])
        failure = caught(mistake, optimizer, variables) if is_odd() else caught(rest, optimizer, variables)
        over = caught(optimizer.end_step)
        return failure, over, digests(variables, optimizer) == before, right_step(optimizer, variables)

    def rest(optimizer, variables):
        for v, gradient in list(zip(variables, gradients_of(variables), strict=True))[1:]:
            optimizer.push(v, gradient)
        optimizer.end_step(items=1 if mistake is negative_items else None)

    for nodes in placements(few.count)[:2]:
        for r, (failure, over, unchanged, right) in enumerate(placed(few, nodes)(steps)):
            assert failure.kind is (InvalidArgumentError if r == ODD else ReplicaFailedError)
            assert MISTAKES[mistake] in failure.text
            assert r == ODD or f"replica {ODD} failed" in failure.text
            assert "no step has begun" in over.text
            assert unchanged
            assert right


@pytest.mark.parametrize(
    ("bad_list", "text"),
    [
        (lambda variables: [], "no variables are known"),
        (lambda variables: [*variables, variables[0]], "a variable stands twice"),
        (lambda variables: [np.zeros(3)], "expected a distopt.Variable"),
    ],
    ids=["empty", "twice", "array"],
)
def test_a_bad_list_on_one_replica_is_told_to_all(few, bad_list, text):
    def steps():
        variables, optimizer = new_variables(), SGD(learning_rate=1.0)
        failure = caught(optimizer.begin_step, bad_list(variables) if is_odd() else variables)
        return failure, right_step(optimizer, variables)

    for r, (failure, right) in enumerate(few(steps)):
        assert failure.kind is (InvalidArgumentError if r == ODD else ReplicaFailedError)
        assert text in failure.text
        assert right


def test_rows_for_a_constraint_are_refused_before_anything_is_agreed_on(few):
    def steps():
        v = Variable(np.ones((4, 2), "float32"), name="w", constraint=distopt.constraints.NonNeg())
        optimizer = legacy.SGD(learning_rate=0.25)
        rows = IndexedSlices(np.ones((1, 2), "float32"), [0], (4, 2))
        failure = caught(stream, optimizer, [v], [rows if is_odd() else np.ones((4, 2), "float32")])
        unchanged = v.numpy().tolist() == np.ones((4, 2)).tolist()
        stream(optimizer, [v], [np.full((4, 2), 2.0 * is_odd(), "float32")])
        return failure.kind, unchanged, v.numpy().tolist()

    for r, outcome in enumerate(few(steps)):
        kind = RuntimeError if r == ODD else ReplicaFailedError  # as in Keras
        assert outcome == (kind, True, [[0.5, 0.5]] * 4)


def begin_instead_of_apply(optimizer, variables):
    optimizer.begin_step(variables) if is_odd() else apply(optimizer, variables, gradients_of(variables))


def other_variables(optimizer, variables):
    optimizer.begin_step(variables[:2] if is_odd() else variables)


def other_options(optimizer, variables):
    optimizer = SGD(learning_rate=1.0, momentum=0.5) if is_odd() else optimizer
    stream(optimizer, variables, gradients_of(variables))


def other_rate(optimizer, variables):
    optimizer.learning_rate = 0.5 if is_odd() else 1.0
    try:
        stream(optimizer, variables, gradients_of(variables))
    finally:
        optimizer.learning_rate = 1.0


def items_on_one(optimizer, variables):
    stream(optimizer, variables, gradients_of(variables), items=3 if is_odd() else None)


def begin_again_instead_of_end(optimizer, variables):
    """What a loop does that catches an error of its backward pass and takes the next batch."""
    optimizer.begin_step(variables)
    for k, v in enumerate(variables):
        if is_odd() and k == 2:
            optimizer.begin_step(variables)
        optimizer.push(v, gradients_of(variables)[k])
    optimizer.end_step()


def barrier_instead_of_end(optimizer, variables):
    optimizer.begin_step(variables)
    optimizer.push(variables[0], gradients_of(variables)[0])
    distopt.barrier() if is_odd() else optimizer.end_step()


def apply_instead_of_end(optimizer, variables):
    optimizer.begin_step(variables)
    for v, gradient in zip(variables, gradients_of(variables), strict=True):
        optimizer.push(v, gradient)
    apply(optimizer, variables, gradients_of(variables)) if is_odd() else optimizer.end_step()


DISAGREEMENTS = {
    begin_instead_of_apply: "begin_step of SGD",
    other_variables: "v2: float32[90, 70]",
    other_options: "momentum",
    other_rate: "learning_rate: replica 1: 0.5",
    items_on_one: "items=: replica 1: given",
    begin_again_instead_of_end: "call: replica 1: begin_step of SGD",
    barrier_instead_of_end: "call: replica 1: barrier",
    apply_instead_of_end: "call: replica 1: apply_gradients of SGD",
}


@pytest.mark.parametrize("act", DISAGREEMENTS)
def test_replicas_that_differ_get_the_same_error_and_can_begin_anew(few, act):
    def steps():
        variables, optimizer = new_variables(), SGD(learning_rate=1.0)
        stream(optimizer, variables, gradients_of(variables))
        before = digests(variables, optimizer)
        failure = caught(act, optimizer, variables)
        return failure, digests(variables, optimizer) == before, right_step(optimizer, variables)

    for nodes in placements(few.count)[:2]:
        outcomes = placed(few, nodes)(steps)
        failure = outcomes[0][0]
        assert failure.kind is CollectiveMismatchError
        assert DISAGREEMENTS[act] in failure.text
        assert outcomes == [(failure, True, True)] * few.count


def test_a_step_without_any_gradient_changes_nothing(few):
    def steps():
        variables, optimizer = new_variables(), SGD(learning_rate=1.0)
        before = digests(variables, optimizer)
        failure = caught(stream, optimizer, variables, [None] * len(variables))
        return failure, digests(variables, optimizer) == before, right_step(optimizer, variables)

    outcomes = few(steps)
    assert outcomes == [(outcomes[0][0], True, True)] * few.count
    assert outcomes[0][0].kind is InvalidArgumentError
