"""The batch that a replica is working on: an averaged loss divides by the size of the global batch."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from distopt.process.replica import Replica, current_replica

_open: WeakKeyDictionary[Replica, list[OpenBatch]] = WeakKeyDictionary()


class OpenBatch:
    """One iterator's entry in its replica's stack of current batches; the batch handed out last is on top.

    Because of the stack, the training batch is current again after an evaluation loop inside a training loop.
    """

    def __init__(self) -> None:
        self._replica = current_replica()
        self.items = self.global_size = 0

    def make_current(self, items: int, global_size: int) -> None:
        """Make this iterator's next batch the current one."""
        self.withdraw()
        self.items, self.global_size = items, global_size
        _open.setdefault(self._replica, []).append(self)
        self._replica.global_size = global_size

    def withdraw(self) -> None:
        """Take this iterator's batch away."""
        stack = _open.get(self._replica, [])
        if self in stack:
            stack.remove(self)
        self._replica.global_size = stack[-1].global_size if stack else None


def current_items() -> int | None:
    """Return how many examples of the current batch this replica holds; None outside of every batch."""
    stack = _open.get(current_replica())
    return stack[-1].items if stack else None
