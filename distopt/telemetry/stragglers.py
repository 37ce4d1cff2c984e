"""Which replica the others wait for, and how long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distopt.distribute.collectives import all_gather
from distopt.distribute.strategy import get_strategy


@dataclass(frozen=True)
class Lateness:
    """How one replica typically came to the calls of all."""

    replica: int
    late: float
    """Seconds, on average, after the replica that waited the longest: 0 for the earliest."""
    waited: float
    """Seconds that it waited for the others, on average."""


def stragglers() -> list[Lateness]:
    """Return who came how late to steps and collectives since the last request (a collective), the latest first.

    The clocks of nodes are not compared: a replica is as late as it waits less than the one that waits longest::

        late[r] = max(waited) - waited[r]

    Example:
        >>> [lateness.replica for lateness in stragglers()]
        [0]
    """
    watch = get_strategy().ready().watch
    waits = all_gather(watch.waited / max(1, watch.meetings))
    watch.waited, watch.meetings = 0.0, 0
    late = np.max(waits) - waits
    order = np.argsort(-late, kind="stable").tolist()
    return [Lateness(r, float(late[r]), float(waits[r])) for r in order]
