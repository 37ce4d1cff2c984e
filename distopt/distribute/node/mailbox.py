"""Small records from everybody to everybody, in the memory of a node that holds the whole job."""

from __future__ import annotations

import os
import time

import numpy as np

from distopt.distribute.agreement.communicator import Array
from distopt.distribute.node.node import SPIN_SECONDS, Node, nap
from distopt.errors import DeadCommunicatorError
from distopt.memory.layout import new_segment

RECORD_BYTES = 192
"""Longer records go another way."""

_LINE = 64
_SLOT = _LINE + 2 * RECORD_BYTES


class Mailbox:
    """Each replica writes its record, counts it, and reads the others' when they have counted as many.

    There are two places for a replica's record, in turns: who is ahead by one round does not write where another still
    reads, and nobody gets ahead by two.

    Args:
        node: a node that holds the whole job; its replicas make the mailbox together.
    """

    def __init__(self, node: Node) -> None:
        replicas = len(node.members)
        segment = new_segment(_SLOT * replicas)
        node.unite([segment])
        assert segment is not None
        self._segment = segment
        self._counts = segment.bytes.view(np.int64).data
        self._records = segment.bytes.reshape(replicas, _SLOT)
        self._me, self._rounds = node.place, 0
        self._is_abandoned = False
        self._watch = node.communicator.watch

    def abandon(self) -> None:
        """Make this replica's thread that waits in it, and every later one, raise."""
        self._is_abandoned = True

    def gather(self, mine: Array, deadline: float | None) -> Array:
        """Give every replica everybody's record.

        Args:
            mine: at most RECORD_BYTES bytes, as many on every replica.
            deadline: ``time.monotonic()`` time after which to give up; None waits.

        Raises:
            TimeoutError: the deadline passed.
        """
        self._rounds += 1
        begin = _LINE + self._rounds % 2 * RECORD_BYTES
        place = slice(begin, begin + mine.size)
        self._records[self._me, place] = mine
        os.sched_yield()  # a call of the kernel: what was written before is visible before the count
        self._counts[self._me * _SLOT // 8] = self._rounds
        for first in range(0, len(self._records) * _SLOT // 8, _SLOT // 8):
            if self._counts[first] < self._rounds:
                self._wait(first, deadline)
        os.sched_yield()
        return self._records[:, place].copy()

    def _wait(self, first: int, deadline: float | None) -> None:
        counts, rounds, watch = self._counts, self._rounds, self._watch
        now = time.monotonic()
        patience = now + SPIN_SECONDS
        watch.begin_wait(now)
        while counts[first] < rounds:
            os.sched_yield()
            now = time.monotonic()
            if deadline is not None and now > deadline:
                raise TimeoutError("not every replica arrived before the deadline")
            if now > patience:
                if self._is_abandoned:
                    raise DeadCommunicatorError("this mailbox was abandoned after a failure")
                watch.look(now)
                nap(now - patience)
        watch.end_wait()
