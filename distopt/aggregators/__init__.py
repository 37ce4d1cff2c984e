"""How gradients are summed: from a list of (gradient, variable) to such a list."""

from distopt.aggregators.aggregator import Aggregator, FlatAggregator
from distopt.aggregators.mpi_allreduce import MPIAllreduce
from distopt.aggregators.stacked import Stacked
from distopt.aggregators.sum import Sum

__all__ = ["Aggregator", "FlatAggregator", "MPIAllreduce", "Stacked", "Sum"]
