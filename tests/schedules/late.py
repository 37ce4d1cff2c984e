"""Makes one replica late at one point of each action: a moment of the step, or an operation of its communicator."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.distribute.agreement.communicator import Array, Barrier, Communicator, Transfer
from distopt.process.moments import WITH_GRADIENTS, Moment

OPERATIONS = ("all_gather", "transfer", "node_barrier")
BETWEEN_CALLS = "between calls"
PLACES = (
    BETWEEN_CALLS,
    *(f"{when} {operation}" for operation in OPERATIONS for when in ("before", "after")),
    *(moment.name for moment in Moment if moment not in WITH_GRADIENTS),
)
LATE_SECONDS = 0.012
"""Longer than the others take to do what they should have waited with."""


class Lateness:
    """Who is late, where and when: drawn for each action, the same on all replicas.

    Args:
        seed: of the program.
        index: this replica.
        replicas: how many there are.
    """

    def __init__(self, seed: int, index: int, replicas: int) -> None:
        self._seed, self._index, self._replicas = seed, index, replicas
        self._place, self._visits, self._rng = "", 0, np.random.default_rng([seed, index])

    def begin(self, action: int) -> None:
        """Draw the late replica of an action, and the point where it is late."""
        rng = np.random.default_rng([self._seed, action, 1])
        is_late = int(rng.integers(self._replicas)) == self._index
        place, visits = str(rng.choice(PLACES)), int(rng.choice([0, 0, 0, 1, 2, 5]))
        self._place, self._visits = place if is_late else "", visits

    def observe(self, moment: Moment, subject: Any) -> None:
        """Be late at a moment of the step."""
        self.pause(moment.name)

    def pause(self, place: str) -> None:
        """Wait, where this is the place and its time."""
        if place == self._place:
            self._visits -= 1
            if self._visits < 0:
                self._place = ""
                time.sleep(LATE_SECONDS)  # lateness is what is tested: there is nothing to wait for


class LateCommunicator(Communicator):
    """Another communicator, whose operations may begin and end late.

    Args:
        inner: the other one.
        lateness: when.
        nodes: the node that each replica pretends to be on.
    """

    def __init__(self, inner: Communicator, lateness: Lateness, nodes: tuple[int, ...]) -> None:
        self.name, self.staging = inner.name, inner.staging if len(set(nodes)) == 1 else None
        self._inner, self._lateness, self._nodes = inner, lateness, nodes
        self.watchdog = inner.watchdog

    @property
    def index(self) -> int:
        return self._inner.index

    @property
    def size(self) -> int:
        return self._inner.size

    @property
    def nodes(self) -> tuple[int, ...]:
        return self._nodes

    def node_barrier(self, node: Any) -> Barrier | None:
        barrier = self._inner.node_barrier(node)
        return None if barrier is None else _LateBarrier(barrier, self._lateness)

    def all_gather(self, mine: Array, deadline: float | None = None) -> Array:
        self._lateness.pause("before all_gather")
        gathered = self._inner.all_gather(mine, deadline)
        self._lateness.pause("after all_gather")
        return gathered

    def prepare(
        self, sends: Sequence[Array | None], receives: Sequence[Array | None], *, once: bool = False
    ) -> Transfer:
        transfer = self._inner.prepare(sends, receives, once=once)

        def late() -> None:
            self._lateness.pause("before transfer")
            transfer()
            self._lateness.pause("after transfer")

        return late

    def clone(self) -> Communicator:
        return LateCommunicator(self._inner.clone(), self._lateness, self._nodes)

    def status_channel(self) -> Any:
        return self._inner.status_channel()

    def fail(self, error: BaseException) -> None:
        self._inner.fail(error)

    def release(self) -> None:
        self._inner.release()

    def abandon(self) -> None:
        self._inner.abandon()


class _LateBarrier:
    def __init__(self, inner: Barrier, lateness: Lateness) -> None:
        self._inner, self._lateness = inner, lateness

    def __call__(self) -> None:
        self._lateness.pause("before node_barrier")
        self._inner()
        self._lateness.pause("after node_barrier")

    def abandon(self) -> None:
        self._inner.abandon()
