"""A transport as a user may write it: queues between threads.

``pytest tests/parallel --over unit.testing.own_transport:make`` runs the tests over it.
"""

import itertools
import queue
import threading
import time

import numpy as np

from distopt.distribute.agreement.communicator import Communicator
from distopt.errors import DeadCommunicatorError, ReplicaFailedError


class Group:
    """What the ends of one transport share."""

    def __init__(self, size):
        self.size, self.failures = size, {}
        self._queues, self._lock = {}, threading.Lock()

    def queue(self, *key):
        with self._lock:
            return self._queues.setdefault(key, queue.SimpleQueue())


class QueueCommunicator(Communicator):
    name = "queues"
    index, size, nodes = None, None, None  # the contract's properties, as attributes

    def __init__(self, group, index, channel=()):
        self.index, self.size = index, group.size
        self.nodes = (0,) * group.size
        self._group, self._channel, self._clones = group, channel, itertools.count()
        self._is_dead = False

    def all_gather(self, mine, deadline=None):
        for target in range(self.size):
            self._send("record", target, mine)
        return np.stack([self._receive("record", source, deadline) for source in range(self.size)])

    def prepare(self, sends, receives, *, once=False):
        def transfer():
            for target, array in enumerate(sends):
                if array is not None:
                    self._send("payload", target, array)
            for source, array in enumerate(receives):
                if array is not None:
                    array[...] = self._receive("payload", source)

        return transfer

    def clone(self):
        return QueueCommunicator(self._group, self.index, (*self._channel, next(self._clones)))

    def fail(self, error):
        self._group.failures.setdefault(self.index, error)

    def _send(self, kind, target, array):
        if self._is_dead:
            raise DeadCommunicatorError("a deadline has passed on this communicator")
        self._group.queue(self._channel, kind, self.index, target).put(array.copy())

    def _receive(self, kind, source, deadline=None):
        """Take the next message of a replica; between looks, ask the watchdog and whether somebody has failed."""
        box = self._group.queue(self._channel, kind, source, self.index)
        self.watchdog.wait_started(time.monotonic())
        while True:
            try:
                message = box.get(timeout=0.01)
                self.watchdog.wait_ended()
                return message
            except queue.Empty:
                now = time.monotonic()
            for replica, error in self._group.failures.items():
                raise ReplicaFailedError(f"replica {replica} raised {type(error).__name__}: {error}", replica)
            if deadline is not None and now >= deadline:
                self._is_dead = True
                raise TimeoutError("not every replica came before the deadline")
            self.watchdog.check(now, () if kind == "record" else {source})


def make():
    """Return the ends of a new group of two."""
    group = Group(2)
    return [QueueCommunicator(group, index) for index in range(2)]
