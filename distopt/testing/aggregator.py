"""Tests that every gradient aggregator must pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import distopt
from distopt.aggregators import Aggregator
from distopt.arrays import Array
from distopt.memory.digests import digest
from distopt.optimizers import SGD, legacy
from distopt.slabs.fitting import Pair
from distopt.testing.replicas import Replicas
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable


class AggregatorConformance:
    """Tests of a gradient aggregator: a function from a list of (gradient, variable) to such a list.

    A subclass in a test module of pytest makes the aggregator to test, and has a fixture of replicas::

        class TestTrimmedMean(AggregatorConformance):
            rtol = 1e-6

            def make_aggregator(self):
                return TrimmedMean(trim=1)

            def expected(self, rows):  # the sum by default
                return np.sort(rows, axis=0)[1:-1].mean(axis=0)

            @pytest.fixture(params=[3, 4])
            def replicas(self, request):
                return SimulatedReplicas(request.param)
    """

    rtol = 1e-5
    """The largest relative distance of a float32 element from the result of ``expected`` in float64."""

    def make_aggregator(self) -> Callable[..., Any]:
        """Return a new aggregator. Called on every replica."""
        raise NotImplementedError

    def expected(self, rows: Array) -> Any:
        """Return the aggregate.

        Args:
            rows: float64 array of shape (R, N), one row of gradients per replica.

        Returns:
            Array of shape (N,).
        """
        return rows.sum(axis=0)

    def test_takes_and_returns_a_list_of_pairs(self, replicas: Replicas) -> None:
        """Check that the same variables come out, each with one gradient in its shape."""

        def aggregate() -> list[tuple[int, ...]]:
            variables = _variables()
            pairs = list(self._built(variables)([(np.ones(v.shape, v.dtype), v) for v in variables]))
            assert all(any(v is variable for v in variables) for _, variable in pairs)
            shapes = {id(variable): np.shape(gradient) for gradient, variable in pairs}
            return [shapes[id(variable)] for variable in variables]

        assert replicas(aggregate) == [_SHAPES] * replicas.count

    def test_aggregates_as_expected(self, replicas: Replicas) -> None:
        """Check that every element of every variable is the aggregate of the replicas' elements."""

        def aggregate() -> list[Array]:
            variables = _variables()
            pairs = self._built(variables)(_pairs(variables))
            gradients = {id(variable): np.asarray(gradient) for gradient, variable in pairs}
            return [gradients[id(variable)] for variable in variables]

        for aggregates in replicas(aggregate):
            for aggregated, shape in zip(aggregates, _SHAPES, strict=True):
                rows = np.stack([_gradient(r, 0, shape).reshape(-1) for r in range(replicas.count)])
                wanted = np.asarray(self.expected(rows.astype(np.float64))).reshape(shape)
                largest = np.abs(rows).sum(axis=0).reshape(shape)
                assert aggregated.shape == shape
                assert (np.abs(aggregated - wanted) <= self.rtol * largest).all()

    def test_gives_the_same_bits_everywhere(self, replicas: Replicas) -> None:
        """Check that aggregates have the same bits on all replicas, which would drift apart otherwise."""

        def steps() -> list[str]:
            variables, digests = _variables(), []
            optimizer = SGD(learning_rate=0.1, gradient_aggregator=self.make_aggregator())
            for k in range(3):
                optimizer.apply_gradients(_pairs(variables, seed=k))
                digests.append(digest(variables))
            return digests

        digests = replicas(steps)
        assert digests == digests[:1] * replicas.count

    def test_takes_float64_and_16_bits(self, replicas: Replicas) -> None:
        """Check that small whole numbers have the same aggregate in every floating dtype, up to its precision."""

        def aggregate() -> list[Array]:
            variables = [Variable(np.zeros(5), dtype=dtype) for dtype in ("float16", "bfloat16", "float64")]
            mine = np.arange(5) + distopt.replica_index()
            pairs = self._built(variables)([(mine.astype(v.dtype), v) for v in variables])
            return [np.asarray(gradient).astype(np.float64) for gradient, _ in pairs]

        wanted = self.expected(np.stack([np.arange(5.0) + r for r in range(replicas.count)]))
        for results in replicas(aggregate):
            for result in results:
                np.testing.assert_allclose(result, wanted, rtol=1e-2)

    def test_leaves_the_arrays_of_the_user_as_they_are(self, replicas: Replicas) -> None:
        """Check that the caller of an optimizer finds its gradients unchanged after the step."""

        def step() -> bool:
            pairs = _pairs(_variables())
            gradients = [gradient for gradient, _ in pairs]
            before = [gradient.copy() for gradient in gradients]
            optimizer = SGD(gradient_aggregator=self.make_aggregator())
            for _ in range(2):
                optimizer.apply_gradients(pairs)
            return all(np.array_equal(a, b) for a, b in zip(gradients, before, strict=True))

        assert replicas(step) == [True] * replicas.count

    def test_counts_missing_gradients_as_zero(self, replicas: Replicas) -> None:
        """Check that a gradient that is None on some replicas enters the aggregate as zeros."""

        def step(family: type[Any]) -> Array:
            v, w = Variable(np.zeros(4, np.float32)), Variable(np.zeros(2, np.float32))
            mine = np.arange(4, dtype=np.float32) + 1 if distopt.replica_index() == 0 else None
            optimizer = family(learning_rate=1.0, gradient_aggregator=self.make_aggregator())
            optimizer.apply_gradients([(mine, v), (np.ones(2, np.float32), w)])
            return v.numpy()

        rows = np.zeros((replicas.count, 4))
        rows[0] = np.arange(4) + 1
        for family in (SGD, legacy.SGD):
            for value in replicas(step, family):
                np.testing.assert_allclose(value, -np.asarray(self.expected(rows)), rtol=self.rtol, atol=1e-6)

    def test_takes_sparse_gradients(self, replicas: Replicas) -> None:
        """Check that IndexedSlices are aggregated as the dense gradients that they stand for."""

        def step() -> Array:
            v, index = Variable(np.zeros((4, 3), np.float32)), distopt.replica_index()
            rows = IndexedSlices(np.full((3, 3), index + 1.0, np.float32), [index % 4, 3, 3], (4, 3))
            optimizer = legacy.SGD(learning_rate=1.0, gradient_aggregator=self.make_aggregator())
            optimizer.apply_gradients([(rows, v)])
            return v.numpy().reshape(-1)

        dense = np.zeros((replicas.count, 4, 3))
        for r in range(replicas.count):
            np.add.at(dense[r], [r % 4, 3, 3], r + 1.0)
        wanted = -np.asarray(self.expected(dense.reshape(replicas.count, -1)))
        for value in replicas(step):
            np.testing.assert_allclose(value, wanted, rtol=self.rtol, atol=1e-6)

    def test_keeps_nothing_of_an_earlier_step_by_mistake(self, replicas: Replicas) -> None:
        """Check that a step with zero gradients after a step with large ones aggregates zeros."""

        def steps() -> list[float]:
            v, change = Variable(np.zeros(3, np.float32)), []
            optimizer = SGD(learning_rate=1.0, gradient_aggregator=self.make_aggregator())
            for size in (1000.0, 0.0):
                before = v.numpy()
                optimizer.apply_gradients([(np.full(3, size * (distopt.replica_index() + 1)), v)])
                change.append(float(np.abs(v.numpy() - before).max()))
            return change

        zeros = np.abs(np.asarray(self.expected(np.zeros((replicas.count, 3))))).max()
        for _, second in replicas(steps):
            np.testing.assert_allclose(second, zeros)

    def _built(self, variables: list[Variable]) -> Callable[..., Any]:
        aggregator = self.make_aggregator()
        if isinstance(aggregator, Aggregator):
            aggregator.build(variables)
        return aggregator


_SHAPES: list[tuple[int, ...]] = [(3,), (), (5, 4), (0, 2), (70, 60)]


def _variables() -> list[Variable]:
    return [Variable(np.zeros(shape, np.float32)) for shape in _SHAPES]


def _pairs(variables: list[Variable], seed: int = 0) -> list[Pair]:
    return [(_gradient(distopt.replica_index(), seed, v.shape), v) for v in variables]


def _gradient(replica: int, seed: int, shape: tuple[int, ...]) -> Array:
    return np.random.default_rng([replica, seed, *shape]).normal(size=shape).astype(np.float32)
