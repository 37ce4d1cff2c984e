"""The batch that a replica is working on: an averaged loss divides by the size of the global batch."""

from __future__ import annotations

from distopt.process.replica import current_replica


class OpenBatch:
    """One iterator's entry in the stack of current batches; the batch handed out last is on top.

    Because of the stack, the training batch is current again after an evaluation loop inside a training loop.
    """

    def __init__(self) -> None:
        self._stack = current_replica().work.batches
        self.items = self.global_size = 0

    def make_current(self, items: int, global_size: int) -> None:
        """Make this iterator's next batch the current one."""
        self.withdraw()
        self.items, self.global_size = items, global_size
        self._stack.append(self)

    def withdraw(self) -> None:
        """Take this iterator's batch away."""
        if self in self._stack:
            self._stack.remove(self)


def current_batch() -> OpenBatch | None:
    """Return the current batch; None outside of every batch."""
    batch: OpenBatch | None = current_replica().batch
    return batch


def current_items() -> int | None:
    """Return how many examples of the current batch this replica holds; None outside of every batch."""
    batch = current_batch()
    return None if batch is None else batch.items
