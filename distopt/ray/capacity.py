"""Checks that a job fits before anything waits: into the cluster, where it would stay "pending", or on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from distopt.errors import InvalidArgumentError
from distopt.ray.backend import needs_of
from distopt.speaking import say

_MOST_PER_CORE = 8
"""Workers that a core can start in time: each takes 2.5 seconds of one, and Ray Train waits 60 for all of them."""


def check_cores(replicas: int) -> None:
    """Check that this machine can start so many workers in a cluster of its own.

    Raises:
        InvalidArgumentError: they are too many.
    """
    cores = len(os.sched_getaffinity(0))
    if replicas > (most := cores * _MOST_PER_CORE):
        raise InvalidArgumentError(
            f"{replicas} replicas on the {cores} cores of this machine are too many for a Ray cluster of its own: Ray "
            f"gives up before all of them have started. Take at most {most}, add nodes (ray start, on each) and start "
            f"the job on that cluster, or try the algorithm with distopt.simulate({replicas}, ...), in one process"
        )


def check_room(scaling: Any) -> None:
    """Check that the nodes of the cluster, when idle, have room for all workers; print a line if the workers must wait.

    Args:
        scaling: Ray Train's ``ScalingConfig``.

    Raises:
        InvalidArgumentError: the nodes have too little room; the message says which resource is missing.
    """
    if not ray.is_initialized():
        ray.init()
    workers = scaling.num_workers[0] if isinstance(scaling.num_workers, tuple) else scaling.num_workers
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = needs_of(scaling)
    complaint = missing(workers, needs, nodes)
    if complaint:
        raise InvalidArgumentError(
            f"{complaint}. Ask for fewer workers or resources, or add nodes (where Ray adds them when they are asked "
            "for: ray.autoscaler.sdk.request_resources(bundles=[...]) first)"
        )
    if missing(workers, needs, [ray.available_resources()]):
        say(f"distopt: {workers} workers need {dict(needs)} each: they wait for what runs there now")


def missing(workers: int, needs: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str | None:
    """Return why so many workers do not fit on the nodes, or None.

    Args:
        workers: the number of workers.
        needs: the resources that each worker needs.
        nodes: the resources of each node.

    Example:
        >>> missing(3, {"CPU": 2}, [{"CPU": 4}, {"CPU": 1}])
        "3 workers need {'CPU': 2} each, and CPU is short: the 2 nodes ([4, 1]) have room for 2 workers"
    """
    room = {name: sum(int(node.get(name, 0) // need) for node in nodes) for name, need in needs.items() if need > 0}
    together = sum(min((int(node.get(name, 0) // needs[name]) for name in room), default=workers) for node in nodes)
    if together >= workers:
        return None
    short = [name for name, count in room.items() if count < workers] or list(room)
    amounts = [[node.get(name, 0) for node in nodes] for name in short]
    has = " and ".join(str([int(a) if a == int(a) else a for a in amount]) for amount in amounts)
    return (
        f"{workers} workers need {dict(needs)} each, and {' and '.join(short)} is short: the {len(nodes)} nodes "
        f"({has}) have room for {together} workers"
    )
