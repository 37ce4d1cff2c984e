"""Sums while the backward pass goes on: a bucket is summed as soon as all its gradients are there.

A bucket is some neighbouring gradients of the slab. Buckets are summed in the order of the slab, the same on every
replica, by a thread with a communicator and a barrier of its own: neither MPI library makes progress by itself.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Sequence
from contextvars import copy_context

from distopt.distribute.node.node import Node
from distopt.distribute.strategy import Strategy
from distopt.engine.streaming.bucket_size import bucket_bytes
from distopt.engine.sweep.node_memory import NodeMemory
from distopt.process.moments import ACTIVE, Moment
from distopt.process.observers import observe

_running: weakref.WeakSet[BucketSums] = weakref.WeakSet()


class BucketSums:
    """The communication thread of one slab.

    Args:
        node: the replicas, with a barrier of the thread's own; between nodes over a communicator of its own.
        buckets: the entries of each bucket.
        sums: what sums each.
    """

    def __init__(self, node: Node, buckets: Sequence[Sequence[int]], sums: Sequence[Callable[[], None]]) -> None:
        self._node, self._sums = node, sums
        self.bucket_of = {entry: k for k, entries in enumerate(buckets) for entry in entries}
        """The bucket of each entry."""
        self._changed = threading.Condition()
        self._missing = [0] * len(buckets)
        self._wanted: set[int] = set()
        self._next = len(buckets)
        self._is_stopped = False
        self._error: BaseException | None = None
        run = copy_context().run
        self._thread = threading.Thread(target=run, args=(self._work,), name="distopt communication", daemon=True)
        self._thread.start()

    def begin(self, entries: Sequence[int]) -> None:
        """Wait for the gradients of a step.

        Args:
            entries: those that come; a bucket without any is not summed.
        """
        with self._changed:
            self._missing = [0] * len(self._sums)
            for entry in entries:
                self._missing[self.bucket_of[entry]] += 1
            self._wanted = {k for k, missing in enumerate(self._missing) if missing}
            self._next = 0
            self._changed.notify_all()

    def note(self, entry: int) -> None:
        """Note that a gradient lies in the slab."""
        if ACTIVE:
            observe(Moment.PUSHED, entry)
        with self._changed:
            bucket = self.bucket_of[entry]
            self._missing[bucket] -= 1
            if self._missing[bucket] == 0:
                self._changed.notify_all()

    def wait(self) -> None:
        """Return when everything is summed.

        Raises:
            BaseException: what ended the thread.
        """
        if ACTIVE:
            observe(Moment.WAIT)
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._next == len(self._sums))
            if self._error is not None:
                raise self._error

    def end(self) -> None:
        """End the thread and wait for it: it may be writing sums into the slab."""
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """Let the thread end, also where it waits for other replicas."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        self._node.barrier.abandon()
        if not self._node.is_whole_job:
            self._node.communicator.abandon()

    def _work(self) -> None:
        try:
            while self._next_is_full():
                if self._next in self._wanted:
                    self._node.barrier()
                    self._sums[self._next]()
                with self._changed:
                    self._next += 1
                    self._changed.notify_all()
        except BaseException as error:  # whoever waits for the sums raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next_is_full(self) -> bool:
        def is_full() -> bool:
            return self._next < len(self._sums) and self._missing[self._next] == 0

        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped or is_full())
            return not self._is_stopped


def cut_into_buckets(strategy: Strategy, memory: NodeMemory) -> BucketSums | None:
    """Start the communication thread of a slab (collective); None where sums are better left to the end of the step."""
    communicator, slab = strategy.communicator, memory.slab
    is_one_node = len(set(communicator.nodes)) == 1  # its memory is enough; clones go with the strategy
    node = Node(communicator if is_one_node else communicator.clone())
    size = bucket_bytes(node)
    if size is None:
        return None
    buckets: list[list[int]] = [[]]
    filled = 0
    for entry, view in enumerate(slab.views):
        buckets[-1].append(entry)
        filled += view.nbytes
        if filled >= size:
            buckets.append([])
            filled = 0
    buckets = [entries for entries in buckets if entries]
    sums = [_all(memory.sums(node, entries)) for entries in buckets]
    if not is_one_node:
        node.communicator.release()
    result = BucketSums(node, buckets, sums)
    weakref.finalize(slab, result.stop).atexit = False
    _running.add(result)
    return result


@atexit.register
def _end_all() -> None:
    """End the threads before the interpreter, and MPI, go to pieces under them."""
    for sums in list(_running):
        sums.end()


def _all(calls: Sequence[Callable[[], None]]) -> Callable[[], None]:
    def call() -> None:
        for each in calls:
            each()

    return call
