"""Aggregators sum gradients over replicas: from a list of (gradient, variable) to such a list."""

from distopt.aggregators.aggregator import Aggregator, FlatAggregator
from distopt.aggregators.compressed import BFloat16, Float16
from distopt.aggregators.mpi_allreduce import MPIAllreduce
from distopt.aggregators.ray_collective import RayCollective
from distopt.aggregators.stacked import Stacked
from distopt.aggregators.sum import Sum

__all__ = ["Aggregator", "BFloat16", "FlatAggregator", "Float16", "MPIAllreduce", "RayCollective", "Stacked", "Sum"]


def __dir__() -> list[str]:
    return __all__
