"""Tests for your own transports, hooks and optimizers: ways to run replicas, and what each of these parts must do."""

from distopt.testing.aggregator import AggregatorConformance
from distopt.testing.communicator import CommunicatorConformance, DeadlineConformance
from distopt.testing.failure import FailureConformance
from distopt.testing.optimizer import OptimizerConformance
from distopt.testing.replicas import (
    LocalReplica,
    MPIReplicas,
    ProcessReplicas,
    Replicas,
    SimulatedReplicas,
    ThreadReplicas,
)

__all__ = [
    "AggregatorConformance",
    "CommunicatorConformance",
    "DeadlineConformance",
    "FailureConformance",
    "LocalReplica",
    "MPIReplicas",
    "OptimizerConformance",
    "ProcessReplicas",
    "Replicas",
    "SimulatedReplicas",
    "ThreadReplicas",
]


def __dir__() -> list[str]:
    return __all__
