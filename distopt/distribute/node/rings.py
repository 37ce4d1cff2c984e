"""Arrays between the replicas of a node that holds the whole job, through memory that they share.

Every ordered pair of replicas has a ring of slots. Its sender fills them in turns while its receiver empties them: a
slot is still in the cache when it is read. Nobody waits for one peer while another is ready.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

import numpy as np

from distopt.distribute.agreement.communicator import Array
from distopt.distribute.node.node import SPIN_SECONDS, Node, nap
from distopt.distribute.transports.wire import Message, something_else
from distopt.memory.layout import new_segment

_LINE = 64
_SLOTS = 4
_SLOT_BYTES = 1 << 18
_NODE_BYTES = 1 << 28
"""The most that all rings of a node may take; many replicas have smaller slots."""


class Rings:
    """The rings of one communicator.

    Args:
        node: a node that holds the whole job; its replicas make the rings together.
        check: raises when the communicator is dead.

    Raises:
        NoSharedMemoryError: there is no room.
    """

    def __init__(self, node: Node, check: Callable[[], None]) -> None:
        count = len(node.members)
        self._slot_bytes = min(_SLOT_BYTES, max(_LINE, _NODE_BYTES // (count * count * _SLOTS) // _LINE * _LINE))
        self._ring_bytes = _LINE * (2 + _SLOTS) + _SLOTS * self._slot_bytes
        self._segment = new_segment(count * count * self._ring_bytes)
        node.unite([self._segment])
        assert self._segment is not None
        self._check, self._watch = check, node.communicator.watch
        me = node.communicator.index
        self._to = {r: self._ring(me * count + r) for r in range(count) if r != me}
        self._from = {r: self._ring(r * count + me) for r in range(count) if r != me}

    def _ring(self, number: int) -> _Ring:
        assert self._segment is not None
        begin = number * self._ring_bytes
        return _Ring(self._segment.bytes[begin : begin + self._ring_bytes])

    def exchange(self, sends: Mapping[int, Array], receives: Mapping[int, Array]) -> None:
        """Send and receive arrays of bytes.

        Raises:
            DeadCommunicatorError: it was abandoned.
            ReplicaLostError: a replica is gone.
            ReplicaFailedError: a replica sends something else.
        """
        tasks: list[_Going | _Coming] = [_Going(self._to[r], array) for r, array in sends.items()]
        tasks += [_Coming(self._from[r], r, array) for r, array in receives.items()]
        self._finish([task for task in tasks if task.left])

    def _finish(self, tasks: list[_Going | _Coming]) -> None:
        watch, idle_since = self._watch, 0.0
        while tasks:
            moved = [task.advance() for task in tasks]
            if any(moved):
                tasks = [task for task in tasks if task.left]
                if idle_since:
                    watch.end_wait()
                    idle_since = 0.0
                continue
            os.sched_yield()
            now = time.monotonic()
            if not idle_since:
                idle_since = now
                watch.begin_wait(now)
            if now > idle_since + SPIN_SECONDS:
                self._check()
                watch.look(now)
                nap(now - idle_since)


class _Ring:
    """Two counts, how much of a message is left at each slot, and the slots."""

    def __init__(self, memory: Array) -> None:
        self.counts = memory[: 2 * _LINE].view(np.int64).data
        self.lefts = memory[2 * _LINE : (2 + _SLOTS) * _LINE].view(np.int64).data
        self.slots = memory[(2 + _SLOTS) * _LINE :].reshape(_SLOTS, -1)


_FILLED, _EMPTIED = 0, _LINE // 8


class _Going:
    def __init__(self, ring: _Ring, array: Array) -> None:
        self._ring, self._array, self.left = ring, array, array.size

    def advance(self) -> bool:
        """Do what can be done without waiting; return whether that was anything."""
        counts, slots = self._ring.counts, self._ring.slots
        filled, before = counts[_FILLED], self.left
        while self.left and filled - counts[_EMPTIED] < _SLOTS:
            part = self._array[-self.left :][: slots.shape[1]]
            slots[filled % _SLOTS, : part.size] = part
            self._ring.lefts[filled % _SLOTS * _LINE // 8] = self.left
            self.left -= part.size
            filled += 1
            os.sched_yield()  # a call of the kernel: what was written before is visible before the count
            counts[_FILLED] = filled
        return self.left < before


class _Coming:
    def __init__(self, ring: _Ring, replica: int, array: Array) -> None:
        self._ring, self._replica, self._array, self.left = ring, replica, array, array.size

    def advance(self) -> bool:
        """Do what can be done without waiting; return whether that was anything."""
        counts, slots = self._ring.counts, self._ring.slots
        emptied, before = counts[_EMPTIED], self.left
        while self.left and emptied < counts[_FILLED]:
            os.sched_yield()
            left = self._ring.lefts[emptied % _SLOTS * _LINE // 8]
            if left != self.left:
                raise something_else(self._replica, (Message.PAYLOAD, left), (Message.PAYLOAD, self.left))
            part = self._array[-self.left :][: slots.shape[1]]
            part[...] = slots[emptied % _SLOTS, : part.size]
            self.left -= part.size
            emptied += 1
            os.sched_yield()
            counts[_EMPTIED] = emptied
        return self.left < before
