"""The conformance classes over distopt's own aggregators, and over a user's optimizer; ``test_every_row`` has ours."""

import numpy as np
import pytest
from parallel.caught import caught

import distopt
from distopt import Variable
from distopt.aggregators import MPIAllreduce, Stacked, Sum
from distopt.errors import InvalidArgumentError
from distopt.optimizers import SGD, Optimizer
from distopt.testing import AggregatorConformance, OptimizerConformance


class TestSum(AggregatorConformance):
    def make_aggregator(self):
        return Sum()


class TestStackedSum(AggregatorConformance):
    def make_aggregator(self):
        return Stacked(lambda rows: rows.sum(axis=0))


class TestMedian(AggregatorConformance):
    def make_aggregator(self):
        return Stacked(lambda rows: np.median(rows, axis=0))

    def expected(self, rows):
        return np.median(rows, axis=0)


class TestFunctionOfTheUser(AggregatorConformance):
    def make_aggregator(self):
        def largest(pairs):
            dense = [(g.to_dense() if hasattr(g, "to_dense") else g, v) for g, v in pairs]
            return [(distopt.all_reduce(g, op="max"), v) for g, v in dense]

        return largest

    def expected(self, rows):
        return rows.max(axis=0)


class TestMPIAllreduce(AggregatorConformance):
    def make_aggregator(self):
        return MPIAllreduce()

    @pytest.fixture(autouse=True)
    def _where_mpi_is(self, replicas):
        if replicas.transport in ("threads", "ray"):
            pytest.skip("these replicas have no MPI")


def test_mpi_allreduce_needs_mpi():
    def step():
        optimizer = SGD(gradient_aggregator=MPIAllreduce())
        return caught(optimizer.apply_gradients, [(np.ones(2), Variable(np.zeros(2)))])

    for failure in distopt.simulate(2, step):
        assert failure.kind is InvalidArgumentError
        assert "aggregators.Sum()" in failure.text


class Signs(Optimizer):
    """An optimizer of a user: steps by the sign of a running mean."""

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.means = [self.add_variable_from_reference(v, "mean") for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        mean = self.means[self._get_variable_index(variable)]
        self.assign(mean, 0.9 * mean + 0.1 * gradient)
        self.assign_sub(variable, float(learning_rate) * np.sign(mean))


class TestOptimizerOfTheUser(OptimizerConformance):
    takes_sparse = False

    def make_optimizer(self, **options):
        return Signs(learning_rate=0.01, **options)
