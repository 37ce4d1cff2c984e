"""Who the replicas are and how they talk to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distopt.lazy import attach

if TYPE_CHECKING:
    from distopt.distribute.checks import Checks, Deadlines
    from distopt.distribute.collectives import (
        all_gather,
        all_reduce,
        barrier,
        broadcast,
        num_replicas,
        print_once,
        replica_index,
    )
    from distopt.distribute.communicator import Communicator, Place
    from distopt.distribute.elastic import ElasticCommunicator
    from distopt.distribute.local import LocalCommunicator
    from distopt.distribute.mpi import MPICommunicator
    from distopt.distribute.simulation import simulate
    from distopt.distribute.strategy import Strategy, get_strategy
    from distopt.distribute.threads import ThreadCommunicator

__all__ = [
    "Checks",
    "Communicator",
    "Deadlines",
    "ElasticCommunicator",
    "LocalCommunicator",
    "MPICommunicator",
    "Place",
    "Strategy",
    "ThreadCommunicator",
    "all_gather",
    "all_reduce",
    "barrier",
    "broadcast",
    "get_strategy",
    "num_replicas",
    "print_once",
    "replica_index",
    "simulate",
]

__getattr__ = attach(
    __name__,
    dict.fromkeys(__all__, "distopt.distribute.collectives")
    | {
        "Checks": "distopt.distribute.checks",
        "Communicator": "distopt.distribute.communicator",
        "Deadlines": "distopt.distribute.checks",
        "ElasticCommunicator": "distopt.distribute.elastic",
        "LocalCommunicator": "distopt.distribute.local",
        "MPICommunicator": "distopt.distribute.mpi",
        "Place": "distopt.distribute.communicator",
        "Strategy": "distopt.distribute.strategy",
        "ThreadCommunicator": "distopt.distribute.threads",
        "get_strategy": "distopt.distribute.strategy",
        "simulate": "distopt.distribute.simulation",
    },
)
