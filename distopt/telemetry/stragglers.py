"""Finds the replicas that the others wait for, and how long they wait."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distopt.distribute.collectives import all_gather
from distopt.distribute.strategy import get_strategy


@dataclass(frozen=True)
class Lateness:
    """The average lateness of one replica at the calls that all replicas make together."""

    replica: int
    """Its index, from 0."""
    late: float
    """Seconds, on average, that it came after the earliest replica, which waited the longest; 0 for that one."""
    waited: float
    """Seconds, on average, that it waited for the others."""


def stragglers() -> list[Lateness]:
    """Return how late each replica came to steps and collectives since the last call of this one, the latest first.

    A collective. The clocks of nodes are not compared; lateness is the waiting time that a replica has less than the
    replica that waited longest::

        late[r] = max(waited) - waited[r]

    Example:
        >>> [lateness.replica for lateness in stragglers()]
        [0]
    """
    watchdog = get_strategy().ready().watchdog
    waits = all_gather(watchdog.waited / max(1, watchdog.headers))
    watchdog.waited, watchdog.headers = 0.0, 0
    late = np.max(waits) - waits
    order = np.argsort(-late, kind="stable").tolist()
    return [Lateness(r, float(late[r]), float(waits[r])) for r in order]
