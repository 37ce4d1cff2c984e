"""Tests that every optimizer must pass: the built-in ones, and yours."""

from __future__ import annotations

from typing import Any

import numpy as np

import distopt
from distopt.arrays import Array
from distopt.memory.digests import digest
from distopt.testing.replicas import Replicas
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable


class OptimizerConformance:
    """Tests of an optimizer of either family.

    A subclass in a test module of pytest makes the optimizer to test, and has a fixture of replicas::

        class TestLion(OptimizerConformance):
            def make_optimizer(self, **options):
                return Lion(learning_rate=0.01, **options)

            @pytest.fixture(params=[1, 2, 3])
            def replicas(self, request):
                return SimulatedReplicas(request.param)
    """

    takes_sparse = True
    """True where the optimizer takes IndexedSlices."""
    rtol = 1e-10
    """The largest relative distance of the parameters (float64) on N replicas from those on one."""

    def make_optimizer(self, **options: Any) -> Any:
        """Return a new optimizer; ``options`` are ``clipnorm`` and other arguments of the base class."""
        raise NotImplementedError

    def test_replicas_do_what_one_does_with_the_sum(self, replicas: Replicas) -> None:
        """Check that steps with the parts of a gradient on N replicas equal steps with the sum on one replica."""

        def steps(together: bool) -> list[Array]:
            variables, optimizer = _variables(), self.make_optimizer()
            for k in range(4):
                optimizer.apply_gradients(_dense(variables, k, replicas.count, together))
            return [v.numpy() for v in variables]

        self._check(replicas(steps, False), replicas(steps, True))

    def test_replicas_do_what_one_does_with_the_sum_of_sparse_gradients(self, replicas: Replicas) -> None:
        """Check that steps with the parts of a sparse gradient equal steps with the sum; some rows are repeated."""
        if not self.takes_sparse:
            return

        def steps(together: bool) -> list[Array]:
            variables, optimizer = _variables(), self.make_optimizer()
            for k in range(4):
                optimizer.apply_gradients(_sparse(variables, k, replicas.count, together))
            return [v.numpy() for v in variables]

        self._check(replicas(steps, False), replicas(steps, True))

    def test_replicas_have_the_same_bits(self, replicas: Replicas) -> None:
        """Check that after every step parameters and state are equal on all replicas."""

        def steps() -> list[str]:
            variables, optimizer, digests = _variables(), self.make_optimizer(clipnorm=0.5), []
            for k in range(4):
                optimizer.apply_gradients(_dense(variables, k, replicas.count, False))
                digests.append(digest([*variables, *_state(optimizer)]))
            return digests

        digests = replicas(steps)
        assert digests == digests[:1] * replicas.count
        assert len(set(digests[0])) == 4

    def test_a_step_counts_once(self, replicas: Replicas) -> None:
        """Check that ``iterations`` is the number of steps, and that ``apply_gradients`` returns it."""

        def steps() -> list[int]:
            variables, optimizer = _variables(), self.make_optimizer()
            return [int(optimizer.apply_gradients(_dense(variables, k, replicas.count, False))) for k in range(3)]

        assert replicas(steps) == [[1, 2, 3]] * replicas.count

    def test_gradients_stay_as_they_are(self, replicas: Replicas) -> None:
        """Check that the user's arrays are not written."""

        def step() -> bool:
            pairs = _dense(_variables(), 0, replicas.count, False)
            before = [gradient.copy() for gradient, _ in pairs]
            self.make_optimizer(clipnorm=0.1).apply_gradients(pairs)
            return all(np.array_equal(old, new) for old, (new, _) in zip(before, pairs, strict=True))

        assert replicas(step) == [True] * replicas.count

    def test_a_missing_gradient_counts_as_zero(self, replicas: Replicas) -> None:
        """Check that None on some replicas has the effect of zeros there."""

        def steps(missing: Any) -> str:
            variables, optimizer = _variables(), self.make_optimizer()
            for k in range(3):
                pairs = _dense(variables, k, replicas.count, False)
                if distopt.replica_index() > 0:
                    pairs[0] = (missing(variables[0]), variables[0])
                optimizer.apply_gradients(pairs)
            return digest([*variables, *_state(optimizer)])

        digests = replicas(steps, lambda v: None) + replicas(steps, lambda v: np.zeros(v.shape))
        assert len(set(digests)) == 1

    def test_without_aggregation_each_goes_its_own_way(self, replicas: Replicas) -> None:
        """Check that ``experimental_aggregate_gradients=False`` uses local gradients as they are, without waiting."""

        def steps() -> Array:
            (v, *_), optimizer = _variables(), self.make_optimizer()
            for _ in range(1 + distopt.replica_index()):
                optimizer.apply_gradients([(np.ones(v.shape), v)], experimental_aggregate_gradients=False)
            return v.numpy()

        ends = replicas(steps)
        alone = [np.array(end) for end in replicas(lambda: self._alone(1 + distopt.replica_index()))]
        for end, wanted in zip(ends, alone, strict=True):
            np.testing.assert_array_equal(end, wanted)

    def test_the_config_makes_the_same_optimizer(self, replicas: Replicas) -> None:
        """Check that ``from_config(get_config())`` does the same steps."""

        def steps(again: bool) -> str:
            variables, optimizer = _variables(), self.make_optimizer(clipnorm=0.7)
            if again:
                optimizer = type(optimizer).from_config(optimizer.get_config())
            for k in range(3):
                optimizer.apply_gradients(_dense(variables, k, replicas.count, False))
            return digest([*variables, *_state(optimizer)])

        assert len(set(replicas(steps, False) + replicas(steps, True))) == 1

    def _alone(self, count: int) -> Array:
        with distopt.Strategy(distopt.distribute.LocalCommunicator()).scope():
            (v, *_), optimizer = _variables(), self.make_optimizer()
            for _ in range(count):
                optimizer.apply_gradients([(np.ones(v.shape), v)])
            return v.numpy()

    def _check(self, apart: list[list[Array]], together: list[list[Array]]) -> None:
        for values, wanted in zip(apart, together, strict=True):
            for a, b in zip(values, wanted, strict=True):
                np.testing.assert_allclose(a, b, rtol=self.rtol, atol=self.rtol)


_SHAPES = [(5, 2), (3,), ()]


def _variables() -> list[Variable]:
    return [Variable(np.full(shape, 0.5)) for shape in _SHAPES]


def _state(optimizer: Any) -> list[Variable]:
    return list(optimizer.weights if hasattr(optimizer, "weights") else optimizer.variables)


def _parts(count: int, together: bool) -> range:
    """Return the parts of a gradient that this replica has: one part each, or all of them on replica 0."""
    index = distopt.replica_index()
    if not together:
        return range(index, index + 1)
    return range(count if index == 0 else 0)


def _dense(variables: list[Variable], step: int, count: int, together: bool) -> list[tuple[Array, Variable]]:
    parts = _parts(count, together)
    return [(sum((_numbers(v.shape, step, r) for r in parts), np.zeros(v.shape)), v) for v in variables]


def _sparse(variables: list[Variable], step: int, count: int, together: bool) -> list[tuple[Any, Variable]]:
    """Return one sparse gradient, in which each part has a row of its own and one that is repeated."""
    first, parts = variables[0], _parts(count, together)
    values = [row for r in parts for row in _numbers((3, *first.shape[1:]), step, r)]
    indices = [row for r in parts for row in (r % 5, 4, 4)]
    rows = np.reshape(np.array(values, np.float64), (len(indices), *first.shape[1:]))
    return [(IndexedSlices(rows, np.array(indices, np.int64), first.shape), first)]


def _numbers(shape: tuple[int, ...], step: int, replica: int) -> Array:
    return np.asarray(np.random.default_rng([step, replica, *shape]).normal(size=shape))
