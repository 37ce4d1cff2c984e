"""Streamed steps: the same bits as ``apply_gradients``, and what a hook or nobody pushes."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from parallel.caught import assert_same_bits, rough_numbers, tree_sum, warned
from parallel.streaming.streamed import (
    BUCKETS,
    SHAPES,
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
from distopt import IndexedSlices, Strategy, Variable
from distopt.optimizers import SGD, Adam, legacy


def under(update, fn, *args):
    with Strategy(distopt.get_strategy().communicator, update=update).scope():
        return fn(*args)


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


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
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
