"""The user's aggregator and transformers: what they are given, in which order, and what they may return."""

import numpy as np
import pytest

from distopt import IndexedSlices, Variable, aggregators, all_reduce, optimizers, replica_index, simulate
from distopt.optimizers import legacy

SGDS = {"keras3": optimizers.SGD, "legacy": legacy.SGD}


@pytest.fixture(params=list(SGDS))
def sgd(request):
    return SGDS[request.param]


def halve(pairs):
    return [(gradient / 2, variable) for gradient, variable in pairs]


def test_a_gradient_aggregator(sgd):
    """Upstream's test_gradient_aggregator."""
    x = Variable(2.0)
    sgd(learning_rate=1.0, gradient_aggregator=halve).minimize(lambda: 2 * x, [x])
    assert float(x) == 1.0


def test_overriding_aggregate_gradients():
    """Upstream's test_override_aggregate_gradients."""

    class Halving(legacy.SGD):
        def _aggregate_gradients(self, grads_and_vars):
            return halve(super()._aggregate_gradients(grads_and_vars))

    x, optimizer = Variable(2.0), Halving(1.0)
    optimizer.minimize(lambda: 2 * x, [x])
    assert float(x) == 1.0
    assert optimizer.gradient_aggregator is None

    def train():
        y = Variable(0.0)
        Halving(1.0).apply_gradients([(np.float32(replica_index()), y)])
        return float(y)

    assert simulate(3, train) == [-1.5] * 3


def test_hooks_are_called_in_order_with_the_same_list(sgd):
    calls = []

    def hook(name, factor):
        def call(pairs):
            calls.append((name, [v.name for _, v in pairs], [float(np.sum(g)) for g, _ in pairs], type(pairs)))
            return [(g * factor, v) for g, v in pairs]

        return call

    x, y, z = (Variable([0.0, 0.0], name=name) for name in "xyz")
    optimizer = sgd(
        learning_rate=1.0, gradient_aggregator=hook("sum", 2), gradient_transformers=[hook("one", 3), hook("two", 5)]
    )
    optimizer.apply_gradients([([1.0, 1.0], y), ([2.0, 2.0], x), ([3.0, 3.0], z)])
    names = ["y", "x", "z"]
    assert calls == [
        ("sum", names, [2, 4, 6], list),
        ("one", names, [4, 8, 12], list),
        ("two", names, [12, 24, 36], list),
    ]
    assert [float(v[0]) for v in (y, x, z)] == [-30, -60, -90]


def test_without_aggregation_only_the_transformers_are_called(sgd):
    x = Variable([0.0])
    optimizer = sgd(
        learning_rate=1.0, gradient_aggregator=lambda pairs: pytest.fail("called"), gradient_transformers=[halve]
    )
    optimizer.apply_gradients([([1.0], x)], experimental_aggregate_gradients=False)
    assert float(x[0]) == -0.5
    assert int(optimizer.iterations) == 1


def test_aggregation_makes_no_difference_to_one_replica(sgd):
    """Upstream's testAggregationTrue and testAggregationFalse."""
    for flag in (True, False):
        x = Variable([1.0, 2.0])
        sgd(learning_rate=3.0).apply_gradients([([0.1, 0.1], x)], experimental_aggregate_gradients=flag)
        np.testing.assert_allclose(x.numpy(), [0.7, 1.7], rtol=1e-6)


def test_aggregation_on_two_replicas(sgd):
    """The case of the semantics: -0.3 on both with aggregation, -0.1 and -0.2 without."""

    def train(flag):
        x = Variable(0.0)
        gradient = np.float32(replica_index() + 1)
        sgd(learning_rate=0.1).apply_gradients([(gradient, x)], experimental_aggregate_gradients=flag)
        return float(x)

    np.testing.assert_allclose(simulate(2, train, True), [-0.3, -0.3], rtol=1e-6)
    np.testing.assert_allclose(simulate(2, train, False), [-0.1, -0.2], rtol=1e-6)


def test_clipping_acts_on_the_sum(sgd):
    def train():
        x, y = Variable([1.0]), Variable([1.0])
        sgd(learning_rate=1.0, clipvalue=2.0).apply_gradients([([-3.0], x), ([3.0 * replica_index()], y)])
        return float(x[0]), float(y[0])

    assert simulate(2, train) == [(3.0, -1.0)] * 2


def test_a_gradient_missing_on_some_replicas_counts_as_zero(sgd):
    seen = []

    def look(pairs):
        seen.append([type(g).__name__ for g, _ in pairs])
        return [(all_reduce(g), v) for g, v in pairs if isinstance(g, np.ndarray)]

    def train():
        x, y, table = Variable([0.0]), Variable([0.0]), Variable([[0.0]])
        first = replica_index() == 0
        rows = IndexedSlices([[1.0]], [0], (1, 1))
        sgd(learning_rate=1.0, gradient_aggregator=look).apply_gradients(
            [([1.0] if first else None, x), (None if first else [2.0], y), (rows if first else None, table)]
        )
        return float(x[0]), float(y[0])

    assert simulate(2, train) == [(-1.0, -2.0)] * 2
    assert seen == [["ndarray", "ndarray", "IndexedSlices"]] * 2


def test_a_hook_may_drop_variables(sgd):
    x, y = Variable([0.0]), Variable([0.0], constraint=lambda w: w + 7)
    optimizer = sgd(learning_rate=1.0, gradient_transformers=[lambda pairs: pairs[:1]])
    optimizer.apply_gradients([([1.0], x), ([1.0], y)])
    assert (float(x[0]), float(y[0]), int(optimizer.iterations)) == (-1.0, 0.0, 1)
    optimizer = sgd(learning_rate=1.0, gradient_transformers=[lambda pairs: []], clipnorm=None)
    optimizer.apply_gradients([([1.0], x)])
    assert float(x[0]) == -1.0


def test_hooks_may_write_in_place_and_return_float64(sgd):
    def centre(pairs):
        for g, _ in pairs:
            g -= g.mean()
        return pairs

    def widen(pairs):
        return [(np.asarray(g, np.float64) * 2, v) for g, v in pairs]

    for dtype in ("float16", "bfloat16", "float32"):
        x = Variable([0.0, 0.0], dtype=dtype)
        sgd(learning_rate=1.0, gradient_transformers=[centre, widen]).apply_gradients(
            [(np.array([1, 3]).astype(x.dtype), x)]
        )
        np.testing.assert_array_equal(x.numpy().astype(float), [2, -2])


def test_an_aggregator_class_is_built_once_with_the_variables(sgd):
    class Counting(aggregators.Aggregator):
        def __init__(self):
            self.built = []

        def build(self, variables):
            self.built.append([v.name for v in variables])

        def __call__(self, pairs):
            return halve(pairs)

    x, y, counting = Variable([0.0], name="x"), Variable([0.0], name="y"), Counting()
    optimizer = sgd(learning_rate=1.0, gradient_aggregator=counting)
    if isinstance(optimizer, legacy.Optimizer):
        optimizer.apply_gradients([])
    for _ in range(2):
        optimizer.apply_gradients([([1.0], x), ([1.0], y)])
    assert counting.built == [["x", "y"]]
    assert float(x[0]) == -1.0


def test_the_built_in_aggregators_on_one_replica(sgd):
    for aggregator in (aggregators.Sum(), aggregators.MPIAllreduce(), aggregators.Stacked(lambda g: g.mean(axis=0))):
        x, table = Variable([1.0]), Variable([[1.0], [1.0]])
        optimizer = sgd(learning_rate=0.5, gradient_aggregator=aggregator)
        optimizer.apply_gradients([([1.0], x), (IndexedSlices([[1.0], [1.0]], [1, 1], (2, 1)), table)])
        assert (float(x[0]), table.numpy().ravel().tolist()) == (0.5, [1.0, 0.0])


def test_legacy_transformers_can_be_exchanged():
    x, sgd = Variable([0.0]), legacy.SGD(1.0)
    assert sgd.gradient_transformers == []
    sgd.gradient_transformers = [halve]
    sgd.apply_gradients([([1.0], x)])
    sgd.gradient_transformers = None
    sgd.apply_gradients([([1.0], x)])
    assert float(x[0]) == -1.5


@pytest.mark.parametrize("sgd", [optimizers.SGD, legacy.SGD])
def test_a_limit_that_an_aggregator_sets_is_one_of_its_step(sgd):
    def look(pairs):
        optimizer.clipvalue = 0.5
        return pairs

    x = Variable([0.0])
    optimizer = sgd(learning_rate=1.0, gradient_aggregator=look)
    optimizer.apply_gradients([([2.0], x)])
    assert float(x[0]) == -0.5
