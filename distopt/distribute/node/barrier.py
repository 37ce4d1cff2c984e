"""The barrier of a node: all that its replicas do in shared memory is put in order by it, and by nothing else."""

from __future__ import annotations

import os
import time

import numpy as np

from distopt.distribute.node.node import Node
from distopt.errors import DeadCommunicatorError
from distopt.memory.fence import memory_fence
from distopt.memory.layout import new_segment

SPIN_SECONDS = 0.002
"""Seconds that a waiting replica only yields its core; then it also sleeps, so that it burns none."""

_NAPS = 50e-6, 1e-3
"""The shortest and the longest sleep, seconds."""

_CACHE_LINE = 64
"""Bytes of a cache line: each count has one of its own."""


class FlagBarrier:
    """A barrier in shared memory: every replica counts its arrivals, and waits until the others have counted as many.

    Args:
        node: whose replicas meet; they make the barrier together.
        is_for_records: whether they bring records of headers, to which whoever has left a call comes as well.
    """

    def __init__(self, node: Node, *, is_for_records: bool = False) -> None:
        count = len(node.members)
        segment = new_segment(_CACHE_LINE * count)
        node.unite([segment])
        assert segment is not None
        self._counts = segment.bytes.view(np.int64).data[:: _CACHE_LINE // 8]
        self._index, self._others = node.index_on_node, [k for k in range(count) if k != node.index_on_node]
        self._awaited = [() if is_for_records else (replica,) for replica in node.members]
        self._arrivals = 0
        self._fence = memory_fence()
        self._is_abandoned = False
        self._watchdog = node.communicator.watchdog

    def abandon(self) -> None:
        """Make this replica's thread that waits in it, and every later call here, raise."""
        self._is_abandoned = True

    def __call__(self, deadline: float | None = None) -> None:
        """Wait for the other replicas of the node.

        Args:
            deadline: ``time.monotonic()`` time after which to give up; None waits.

        Raises:
            TimeoutError: the deadline passed.
        """
        counts, self._arrivals = self._counts, self._arrivals + 1  # ``arrive``, written out: it stands in every step
        self._fence()
        counts[self._index] = self._arrivals
        for other in self._others:
            if counts[other] < self._arrivals:
                self._wait(deadline)
                break
        self._fence()  # what is read and written after it comes after the others' counts

    def arrive(self) -> None:
        """Count this replica's arrival, without waiting for the others."""
        self._arrivals += 1
        self._fence()  # what was read and written before comes before the count
        self._counts[self._index] = self._arrivals

    def have_all_come(self) -> bool:
        """Return whether the others have come as often as this replica."""
        have_come = all(self._counts[other] >= self._arrivals for other in self._others)
        self._fence()
        return have_come

    def _wait(self, deadline: float | None) -> None:
        counts, arrivals, now = self._counts, self._arrivals, time.monotonic()
        patience = now + SPIN_SECONDS
        self._watchdog.wait_started(now)
        for other in self._others:
            while counts[other] < arrivals:
                os.sched_yield()
                now = time.monotonic()
                if now > patience:
                    self._check_and_nap(other, now, now - patience, deadline)
        self._watchdog.wait_ended()

    def _check_and_nap(self, other: int, now: float, waited: float, deadline: float | None) -> None:
        if deadline is not None and now > deadline:
            raise TimeoutError("not every replica arrived before the deadline")
        if self._is_abandoned:
            raise DeadCommunicatorError("this barrier was abandoned after a failure")
        self._watchdog.check(now, self._awaited[other])
        # What comes soon is seen soon, and waiting for long costs nothing.
        time.sleep(min(max(_NAPS[0], waited / 16), _NAPS[1]))
