"""Who the replicas are and how they talk to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distopt.lazy import attach

if TYPE_CHECKING:
    from distopt.distribute.agreement.checks import Checks, Deadlines
    from distopt.distribute.agreement.communicator import Communicator, Place
    from distopt.distribute.collectives import (
        all_gather,
        all_reduce,
        barrier,
        broadcast,
        num_replicas,
        print_once,
        replica_index,
    )
    from distopt.distribute.simulation import simulate
    from distopt.distribute.strategy import Strategy, get_strategy
    from distopt.distribute.transports.elastic import ElasticCommunicator
    from distopt.distribute.transports.local import LocalCommunicator
    from distopt.distribute.transports.mpi import MPICommunicator
    from distopt.distribute.transports.threads import ThreadCommunicator

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
        "Checks": "distopt.distribute.agreement.checks",
        "Communicator": "distopt.distribute.agreement.communicator",
        "Deadlines": "distopt.distribute.agreement.checks",
        "ElasticCommunicator": "distopt.distribute.transports.elastic",
        "LocalCommunicator": "distopt.distribute.transports.local",
        "MPICommunicator": "distopt.distribute.transports.mpi",
        "Place": "distopt.distribute.agreement.communicator",
        "Strategy": "distopt.distribute.strategy",
        "ThreadCommunicator": "distopt.distribute.transports.threads",
        "get_strategy": "distopt.distribute.strategy",
        "simulate": "distopt.distribute.simulation",
    },
)
