"""Streamed steps: the same bits as ``apply_gradients``, sums that are ready early, and errors instead of hangs."""

import copy
import gc
import os
import pickle
import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from parallel.caught import assert_same_bits, caught, rough_numbers, tree_sum, warned
from processes_as_replicas import process_replicas, transport_of

import distopt
from distopt import IndexedSlices, Strategy, Variable
from distopt.errors import CollectiveMismatchError, DamagedOptimizerError, InvalidArgumentError, ReplicaFailedError
from distopt.optimizers import SGD, Adam, legacy
from distopt.optimizers.common.access import engine_of
from distopt.testing import SimulatedReplicas

both_families = pytest.mark.parametrize("family", [SGD, legacy.SGD])
BUCKETS = "DISTOPT_BUCKET_BYTES"
SHAPES = [(10,), (5000,), (90, 70), (3,)]
ODD = 1
"""The replica that does something else than the others."""
PATIENCE = 30.0


def pytest_generate_tests(metafunc):
    """``few`` are several replicas, where their number matters little."""
    if "few" in metafunc.fixturenames:
        ways = {"mpi": [pytest.param("mpi", marks=pytest.mark.mpi(min_size=2))], "ray": ["ray"], None: [2, 3]}
        metafunc.parametrize("few", ways[transport_of(metafunc.config)], indirect=True)


@pytest.fixture
def few(request):
    return SimulatedReplicas(request.param) if isinstance(request.param, int) else process_replicas(request.param)


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch):
    """Every gradient is a bucket of its own, unless a test says otherwise."""
    monkeypatch.setenv(BUCKETS, "1")


def index():
    return distopt.replica_index()


def is_odd():
    return index() == ODD


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


def under(update, fn, *args):
    with Strategy(distopt.get_strategy().communicator, update=update).scope():
        return fn(*args)


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


def right_step(optimizer, variables):
    """A streamed step after trouble, and what it should have done (SGD with the learning rate 1)."""
    before = [v.numpy() for v in variables]
    parts = [[rough_numbers(r, v.size, v.dtype, 99) for r in range(distopt.num_replicas())] for v in variables]
    stream(optimizer, variables, [part[index()].reshape(v.shape) for part, v in zip(parts, variables, strict=True)])
    return all(
        np.array_equal(v.numpy(), start - tree_sum(part).reshape(v.shape))
        for v, start, part in zip(variables, before, parts, strict=True)
    )


# The bits

OPTIMIZERS = {
    "SGD": lambda: SGD(learning_rate=0.1),
    "Adam": lambda: Adam(learning_rate=0.05, global_clipnorm=2.0),
    "momentum": lambda: SGD(learning_rate=0.1, momentum=0.9, nesterov=True, clipvalue=0.7),
    "AMSGrad": lambda: Adam(amsgrad=True, clipnorm=1.5),
    "legacy Adam": lambda: legacy.Adam(learning_rate=0.05, clipnorm=1.0),
    "legacy SGD": lambda: legacy.SGD(learning_rate=0.1, momentum=0.9, decay=0.01, clipnorm=1.0, clipvalue=0.5),
}
WITH_HOOKS = {
    "transformer": lambda: SGD(
        learning_rate=0.1, gradient_transformers=[lambda pairs: [(g * 0.5, v) for g, v in pairs]]
    ),
    "legacy transformer": lambda: legacy.Adam(
        learning_rate=0.1, gradient_transformers=[lambda pairs: [(g * 0.5, v) for g, v in pairs]]
    ),
    "NonFusedAdam": lambda: legacy.NonFusedAdam(learning_rate=0.05),
    "aggregator": lambda: Adam(gradient_aggregator=lambda pairs: [(distopt.all_reduce(g), v) for g, v in dense(pairs)]),
    "median": lambda: legacy.SGD(gradient_aggregator=distopt.aggregators.Stacked(lambda g: np.median(g, axis=0))),
    "MPIAllreduce": lambda: SGD(gradient_aggregator=distopt.aggregators.MPIAllreduce()),
}


def dense(pairs):
    return [(g.to_dense() if isinstance(g, IndexedSlices) else g, v) for g, v in pairs]


LISTS = st.lists(
    st.tuples(
        st.sampled_from([(), (1,), (7,), (5, 3), (0, 4), (4096,), (90, 70), (3, 2731)]),
        st.sampled_from(["float32", "float32", "float64", "float16", "bfloat16"]),
    ),
    min_size=1,
    max_size=7,
)
CASES = st.fixed_dictionaries(
    {
        "variables": LISTS,
        "optimizer": st.sampled_from(sorted(OPTIMIZERS)),
        "update": st.sampled_from(["replicated", "shared"]),
        "bucket": st.sampled_from([1, 300, 20_000, 10**9]),
        "placement": st.integers(0, 2),
        "seed": st.integers(0, 10**6),
        "items": st.booleans(),
        "own_memory": st.booleans(),
    }
)


def some_gradient(rng, variable, buffer, has_one):
    """Dense, sparse or absent; of sizes whose sum shows the order of summation."""
    kind = rng.integers(4)
    if kind == 0 and not has_one:
        return None
    values = (rng.normal(size=variable.shape) * 2.0 ** rng.integers(-5, 5, variable.shape)).astype(variable.dtype)
    if kind == 1 and variable.ndim and variable.shape[0]:
        rows = rng.integers(variable.shape[0], size=3)
        return IndexedSlices(values[rows], rows, variable.shape)
    if buffer is None:
        return values
    buffer[...] = values
    return buffer


def train(case, step, make_optimizer):
    """Digests after every step; gradients and the order in which they come differ between replicas."""
    variables = [Variable(np.full(shape, 0.5), name=f"v{k}", dtype=d) for k, (shape, d) in enumerate(case["variables"])]
    optimizer, seen = make_optimizer(), []
    for number in range(3):
        rng = np.random.default_rng([case["seed"], number, index()])
        buffers = optimizer.gradient_buffers(variables) if case["own_memory"] else [None] * len(variables)
        # Every variable has a gradient on one replica at least.
        gradients = [
            some_gradient(rng, v, buffer, (k + number) % distopt.num_replicas() == index())
            for k, (v, buffer) in enumerate(zip(variables, buffers, strict=True))
        ]
        step(optimizer, variables, gradients, rng.permutation(len(variables)), index() + 1 if case["items"] else None)
        seen.append(digests(variables, optimizer))
    return seen


def in_shuffled_order(optimizer, variables, gradients, order, items):
    """Absent gradients are pushed as None or not at all."""
    pushed = [k for k in order if gradients[k] is not None or k % 2]
    return stream(optimizer, variables, gradients, pushed, items)


def in_turns(optimizer, variables, gradients, order, items):
    step = apply if int(optimizer.iterations) == 1 else in_shuffled_order
    return step(optimizer, variables, gradients, order, items)


@example(
    case={
        "variables": [((90, 70), "float32"), ((7,), "float32"), ((), "float16"), ((5, 3), "float64")],
        "optimizer": "Adam", "update": "shared", "bucket": 1, "placement": 2, "seed": 7, "items": True,
        "own_memory": True,
    }
)  # fmt: skip
@settings(max_examples=8)
@given(case=CASES)
def test_a_streamed_step_has_the_bits_of_a_plain_one(replicas, case):
    nodes = placements(replicas.count)[case["placement"] % len(placements(replicas.count))]
    there, make_optimizer = placed(replicas, nodes), OPTIMIZERS[case["optimizer"]]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(BUCKETS, str(case["bucket"]))
        plain, shuffled, mixed = (
            there(under, case["update"], train, case, step, make_optimizer)
            for step in (apply, in_shuffled_order, in_turns)
        )
    assert plain == plain[:1] * replicas.count
    assert shuffled == plain
    assert mixed == plain


@pytest.mark.parametrize("make_optimizer", WITH_HOOKS.values(), ids=WITH_HOOKS)
def test_hooks_see_what_they_see_in_a_plain_step(replicas, make_optimizer):
    if make_optimizer is WITH_HOOKS["MPIAllreduce"] and replicas.transport != "mpi":
        pytest.skip("needs MPI")
    shapes = [((90, 70), "float32"), ((7,), "float32"), ((5, 3), "float64"), ((4, 2), "float32")]
    case = {"variables": shapes, "seed": 3, "items": True, "own_memory": False}
    for nodes in placements(replicas.count)[:2]:
        there = placed(replicas, nodes)
        plain, streamed = (there(train, case, step, make_optimizer) for step in (apply, in_shuffled_order))
        assert streamed == plain


@both_families
def test_the_sum_is_the_tree_of_summation(several, family):
    """The naive reference: no part of the fast path."""

    def step():
        variables = new_variables()
        stream(family(learning_rate=1.0), variables, gradients_of(variables), range(len(variables))[::-1])
        return [v.numpy() for v in variables]

    sums = [
        tree_sum([rough_numbers(r, int(np.prod(shape)), "float32") for r in range(several.count)]) for shape in SHAPES
    ]
    for nodes in placements(several.count):
        for values in placed(several, nodes)(step):
            for value, total in zip(values, sums, strict=True):
                assert_same_bits(value, np.float32(0.5) - total.reshape(value.shape))


def test_dense_here_sparse_there_absent_elsewhere(several):
    def step(how):
        variables = [Variable(np.zeros((40, 3)), name=name) for name in "abc"]
        optimizer = Adam(learning_rate=0.1, clipnorm=1.0)
        for number in range(3):
            values = rough_numbers(index(), 120, "float64", number).reshape(40, 3)
            kinds = [values, IndexedSlices(values[:4], [1, 1, 39, number], (40, 3)), None]
            gradients = [kinds[(index() + k) % 3] for k in range(2)]  # of all kinds; sparse or absent
            gradients.append(kinds[1] if index() % 2 == number % 2 else None)
            how(optimizer, variables, gradients)
        return digests(variables, optimizer)

    for update in ("replicated", "shared"):
        for nodes in placements(several.count):
            there = placed(several, nodes)
            assert there(under, update, step, stream) == there(under, update, step, apply)


def test_what_nobody_pushed_is_left_out(few):
    def steps(how):
        variables = new_variables()
        optimizer = Adam(learning_rate=0.1)
        for number in range(2):
            gradients = gradients_of(variables, number)
            gradients[2] = None
            how(optimizer, variables, gradients)
        return digests(variables, optimizer), variables[2].numpy().max()

    (streamed, messages), (plain, _) = warned(few, lambda: steps(stream)), warned(few, lambda: steps(apply))
    assert streamed == plain
    assert streamed[0][1] == 0.5
    assert any("'v2'" in message for message in messages)


def test_two_optimizers_and_two_lists_take_turns(few):
    def steps(how):
        first, second = new_variables(), new_variables([(7, 5), (4097,)])
        adam, sgd = Adam(learning_rate=0.1), legacy.SGD(learning_rate=0.1, momentum=0.9)
        seen = []
        for number in range(3):
            for optimizer, variables in ((adam, first), (sgd, second), (adam, first[1:3]), (adam, first[::-1])):
                how(optimizer, variables, gradients_of(variables, number))
            seen.append((digests(first, adam), digests(second, sgd)))
        return seen

    for nodes in placements(few.count)[:2]:
        there = placed(few, nodes)
        assert there(steps, stream) == there(steps, apply)


def test_two_optimizers_stream_at_the_same_time(few):
    def steps(interleaved):
        variables = [new_variables(), new_variables([(7, 5), (4097,)])]
        optimizers = [Adam(learning_rate=0.1), SGD(learning_rate=0.1)]
        for number in range(2):
            if not interleaved:
                for optimizer, those in zip(optimizers, variables, strict=True):
                    apply(optimizer, those, gradients_of(those, number))
                continue
            for optimizer, those in zip(optimizers, variables, strict=True):
                optimizer.begin_step(those)
            for k in range(2):
                optimizers[k].push(variables[k][0], gradients_of(variables[k], number)[0])
            for k in (1, 0):
                for v, gradient in list(zip(variables[k], gradients_of(variables[k], number), strict=True))[1:]:
                    optimizers[k].push(v, gradient)
                optimizers[k].end_step()
        return [digests(*pair) for pair in zip(variables, optimizers, strict=True)]

    for nodes in placements(few.count)[:2]:
        there = placed(few, nodes)
        assert there(steps, True) == there(steps, False)


def test_the_variables_of_the_last_step_are_the_default(replicas):
    def steps():
        variables, optimizer = new_variables(), SGD(learning_rate=1.0)
        stream(optimizer, variables, gradients_of(variables))
        counts = [int(stream_as_before(optimizer, variables)) for _ in range(2)]
        return counts, int(optimizer.iterations)

    def stream_as_before(optimizer, variables):
        optimizer.begin_step()
        for v, gradient in zip(variables, gradients_of(variables), strict=True):
            optimizer.push(v, gradient)
        return optimizer.end_step()

    assert replicas(steps) == [([2, 3], 3)] * replicas.count


class Alone(distopt.aggregators.Aggregator):
    """No aggregation: replicas need not keep step."""

    lockstep = False

    def __call__(self, pairs):
        return pairs


def test_an_aggregator_without_lockstep_sends_no_records(few):
    def steps():
        v, optimizer = Variable(0.0), SGD(learning_rate=1.0, gradient_aggregator=Alone())
        for _ in range(1 + 2 * index()):
            stream(optimizer, [v], [np.float32(1)])
        distopt.barrier()
        return float(v)

    assert few(steps) == [-1.0 - 2 * r for r in range(few.count)]


# Buckets


def communication(optimizer):
    """The communication threads of an optimizer."""
    return [plan.stream_in_use for plan in engine_of(optimizer).plans.values() if plan.stream_in_use is not None]


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
        threads.append(sums._thread)
        optimizer.begin_step(variables)
        for v, gradient in list(zip(variables, gradients_of(variables), strict=True))[: 1 + index()]:
            optimizer.push(v, gradient)
        optimizer.begin_step(variables)
        threads_alive = sums._thread.is_alive()
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


# Threads and copies


def test_the_communication_thread_ends_with_its_optimizer(few):
    threads = []

    def steps():
        variables, optimizer = new_variables(), SGD(learning_rate=1.0)
        stream(optimizer, variables, gradients_of(variables))
        optimizer.begin_step(variables)  # one that waits for gradients that never come
        threads.extend(sums._thread for sums in communication(optimizer))
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
            threads |= {sums._thread for sums in communication(optimizer)}
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
