"""Sums that travel in 16 bits: the same bits on every replica, errors within bounds, and digits learned as well."""

import copy

import numpy as np
import pytest
from parallel.caught import assert_same_bits, caught, rough_numbers, tree_sum
from parallel.random_steps import Run, Step, WithoutNode, train
from support import ROOT, load_example

import distopt
from distopt import IndexedSlices, Strategy, Variable
from distopt.aggregators import BFloat16, Float16, Sum
from distopt.arrays import to_dtype
from distopt.errors import CollectiveMismatchError
from distopt.optimizers import SGD
from distopt.testing import AggregatorConformance, SimulatedReplicas

KINDS = [BFloat16, Float16]
ROUNDOFF = {BFloat16: 2.0**-8, Float16: 2.0**-11}
SMALLEST = {BFloat16: 0.0, Float16: 2.0**-25}
"""The error of rounding numbers that are close to zero."""
MODES = ["replicated", "shared"]
SIZE = 20_011

pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")


class TestBFloat16(AggregatorConformance):
    rtol = 2.01 * ROUNDOFF[BFloat16]

    def make_aggregator(self):
        return BFloat16()


class TestFloat16(AggregatorConformance):
    rtol = 2.01 * ROUNDOFF[Float16]

    def make_aggregator(self):
        return Float16()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_by_messages_every_gradient_is_rounded_and_so_is_their_sum(replicas, kind, dtype):
    dtype = to_dtype(dtype)

    def add():
        variable = Variable(np.zeros(SIZE), dtype=dtype)
        mine = rough_numbers(distopt.replica_index(), SIZE, dtype)
        return kind()([(mine, variable)])[0][0]

    rows = [rough_numbers(r, SIZE, dtype) for r in range(replicas.count)]
    expected = tree_sum([row.astype(kind.wire) for row in rows]).astype(dtype) if len(rows) > 1 else rows[0]
    for total in replicas(add):
        assert_same_bits(total, expected)


def aggregate(kind, update, *, dtype=np.float32, scale=1.0):
    """The sum that an optimizer's step finds."""
    with Strategy(distopt.get_strategy().communicator, update=update).scope():
        variable = Variable(np.zeros(SIZE), dtype=dtype)
        optimizer = SGD(learning_rate=1.0, gradient_aggregator=kind())
        optimizer.apply_gradients([(scale * rough_numbers(distopt.replica_index(), SIZE, dtype), variable)])
        return -variable.numpy()


def rounded_tree_sum(rows, nodes, owner, wire):
    """The sum of one array per replica, before its rounding, by an owner on a node: from others it gets 16 bits."""
    if len(set(nodes)) == 1:
        partial = tree_sum(rows)
        return partial if nodes[0] == owner else partial.astype(wire).astype(rows[0].dtype)
    left = 1
    while 2 * left < len(rows):
        left *= 2
    parts = (slice(left), slice(left, None))
    return np.add(*(rounded_tree_sum(rows[part], nodes[part], owner, wire) for part in parts))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("update", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_between_nodes_partial_sums_are_rounded_and_so_is_the_sum(placed, kind, update, dtype):
    totals = placed(lambda: aggregate(kind, update, dtype=dtype))
    nodes = placed(lambda: distopt.get_strategy().communicator.nodes)[0]
    rows = [rough_numbers(r, SIZE, dtype) for r in range(placed.count)]
    by_owner = [rounded_tree_sum(rows, nodes, owner, kind.wire).astype(kind.wire) for owner in sorted(set(nodes))]
    assert (np.array(by_owner) == totals[0]).any(axis=0).all()
    for total in totals:
        assert_same_bits(total, totals[0])
    if distopt.replica_index() == 0 and placed.transport != "threads":
        simulated = SimulatedReplicas(placed.count, nodes)(lambda: aggregate(kind, update, dtype=dtype))
        assert_same_bits(simulated[0], totals[0])
    exact = np.sum(rows, axis=0, dtype=np.float64)
    bound = 2.01 * (ROUNDOFF[kind] * np.abs(rows).sum(axis=0) + SMALLEST[kind])
    assert (np.abs(totals[0] - exact) <= bound).all()
    assert (totals[0] != exact).any()


def mixed_run(**options):
    """Steps with dense, sparse and missing gradients of all dtypes."""
    steps = tuple(
        Step(entries, patterns, items)
        for entries, patterns, items in [
            ((0, 1, 2, 3), ("dense", "dense", "sparse", "dense"), True),
            ((3, 1), ("mixed", "dense"), False),
            ((0, 1, 2, 3), ("dense", "absent", "mixed", "mixed"), True),
        ]
    )
    shapes = (((7,), "float64"), ((), "float16"), ((40, 3), "bfloat16"), ((300, 47), "float32"))
    return Run("Adam", options, shapes, steps, seed=0)


def agreed(outcomes):
    """The digests that all replicas have."""
    assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
    return outcomes[0][0]


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@pytest.mark.parametrize(("kind", "update"), [(BFloat16, "shared"), (Float16, "replicated")])
def test_on_one_node_it_is_the_sum(replicas, kind, update):
    compressed = replicas(train, mixed_run(gradient_aggregator=kind()), Strategy, update, False)
    assert agreed(compressed) == agreed(replicas(train, mixed_run(), Strategy, update, False))


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@pytest.mark.parametrize(("kind", "options"), [(BFloat16, {}), (Float16, {"global_clipnorm": 2.0})])
def test_modes_and_streaming_change_no_bit_on_one_placement(placed, monkeypatch, kind, options):
    monkeypatch.setenv("DISTOPT_BUCKET_BYTES", "5000")
    run = mixed_run(gradient_aggregator=kind(), **options)
    expected = agreed(placed(train, run, Strategy, "replicated", False))
    for streamed in (False, True):
        assert agreed(placed(train, run, Strategy, "shared", streamed)) == expected, streamed


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@pytest.mark.parametrize("kind", KINDS)
def test_without_shared_memory_all_replicas_have_the_same_bits(several, kind):
    digests = agreed(several(train, mixed_run(gradient_aggregator=kind()), WithoutNode, "replicated", False))
    assert digests != agreed(several(train, mixed_run(), WithoutNode, "replicated", False))


@pytest.mark.parametrize("update", MODES)
def test_sparse_rows_are_not_compressed(placed, update):
    def step(kind):
        with Strategy(distopt.get_strategy().communicator, update=update).scope():
            me, variable = distopt.replica_index(), Variable(np.zeros((40, 3)), dtype=np.float32)
            rows = IndexedSlices(rough_numbers(me, 15, np.float32).reshape(5, 3), [me, 7, 7, 9, 2], (40, 3))
            SGD(learning_rate=1.0, gradient_aggregator=kind()).apply_gradients([(rows, variable)])
            return variable.numpy()

    for compressed, whole in zip(placed(step, BFloat16), placed(step, Sum), strict=True):
        assert_same_bits(compressed, whole)


@pytest.mark.parametrize("update", MODES)
def test_float16_overflows_where_bfloat16_does_not(placed, update):
    large = 2.0**20
    assert np.isinf(placed(lambda: aggregate(Float16, update, scale=large))).any()
    assert np.isfinite(placed(lambda: aggregate(BFloat16, update, scale=large))).all()


def test_by_messages_float16_overflows_without_a_warning(several):
    def add(kind):
        return kind()([(np.full(3, 1e5, np.float32), Variable(np.zeros(3)))])[0][0]

    assert np.isinf(several(add, Float16)).all()
    assert np.isfinite(several(add, BFloat16)).all()


def test_replicas_that_compress_differently_are_told(several):
    def step():
        kind = KINDS[distopt.replica_index() % 2]
        optimizer = SGD(gradient_aggregator=kind())
        return caught(optimizer.apply_gradients, [(np.ones(2, np.float32), Variable(np.zeros(2)))])

    for failure in several(step):
        assert failure.kind is CollectiveMismatchError
        assert "BFloat16" in failure.text
        assert "Float16" in failure.text


@pytest.fixture(scope="module")
def learn():
    """A function: the results of examples/train.py, which is imported as a notebook would, on two nodes."""
    module = load_example(ROOT / "examples" / "train.py")
    config = module.read_config(module.CONFIG)
    config["data"]["epochs"] = 6

    def run(options, update):
        with Strategy(distopt.get_strategy().communicator, update=update).scope():
            return module.train({**copy.deepcopy(config), "clipping": config["clipping"] | options})

    return lambda options, update="replicated": SimulatedReplicas(4, (0, 0, 1, 1))(run, options, update)


@pytest.fixture(scope="module")
def uncompressed(learn):
    return learn({})


@pytest.mark.parametrize(("kind", "update"), [(BFloat16, "shared"), (Float16, "replicated")])
def test_the_digits_are_learned_as_well(learn, uncompressed, kind, update):
    results = learn({"gradient_aggregator": kind()}, update)
    assert len({result["digest"] for result in results}) == 1
    assert results[0]["digest"] != uncompressed[0]["digest"]
    assert results[0]["accuracy"] >= 0.97
    curves = [np.reshape(each[0]["losses"], (6, -1)).mean(axis=1) for each in (results, uncompressed)]
    np.testing.assert_allclose(curves[0], curves[1], rtol=0.05)
