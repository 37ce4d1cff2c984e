"""The state that one replica keeps for itself while it runs: nothing here communicates.

A process is one replica unless ``distopt.simulate`` runs several in its threads; then each thread has its own record.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from distopt.errors import ReplicaError
from distopt.process.draws import Draws
from distopt.process.moments import Observers

_numbers = itertools.count()


@dataclass(eq=False)
class Replica:
    """The private record of one replica: who it is, its open tapes, its current batch."""

    name: str = "this process"
    number: int = field(default_factory=lambda: next(_numbers))
    strategies: list[Any] = field(default_factory=list)
    """Open ``Strategy.scope()`` blocks, innermost last."""
    default_strategy: Any = None
    """The answer of ``get_strategy`` outside of every scope, once it has been decided."""
    global_size: int | None = None
    """Number of examples in the current global batch of ``distopt.data``."""
    averaged_loss: str | None = None
    """Name of a loss that was averaged under a tape since the last step (``items=`` would divide twice)."""
    stop_requested: bool = False
    """Set by whoever asks this replica to stop after the step; the others learn it in the next header."""
    stop_agreed: bool = False
    """Set on all replicas in the same step, when one of them was asked to stop."""
    observers: Observers = field(default_factory=Observers)
    """The observers of its steps."""
    overwrites: bool = False
    """True where a variable of this replica is, or was, overwritten by its gradient: steps have to look for it."""
    broken_by: type[BaseException] | None = None
    """The kind of error that left a step in the middle, until the replicas agree on going on together."""
    draws: Draws = field(default_factory=Draws)
    """The counts of its random numbers."""
    updating: Any = None
    """The call of the step that updates variables from the sum now, and does the same on all replicas; else None."""
    _threads: threading.local = field(default_factory=threading.local)

    @property
    def tapes(self) -> list[Any]:
        """This thread's open gradient tapes, innermost last."""
        tapes: list[Any] | None = getattr(self._threads, "tapes", None)
        if tapes is None:
            tapes = self._threads.tapes = []
        return tapes


_process = Replica()
_current: ContextVar[Replica | None] = ContextVar("distopt_replica", default=None)
_bystanders: list[set[threading.Thread]] = []
"""For every simulation that runs, the oldest first: the threads that were there before it."""


def current_replica() -> Replica:
    """Return the record of the replica that this code runs in.

    Raises:
        ReplicaError: a thread that was started while a simulation runs does not know which replica it works for.

    Example:
        >>> current_replica() is current_replica()
        True
    """
    return _current.get() or (_process_replica() if _bystanders else _process)


def enter_replica(replica: Replica) -> None:
    """Make ``replica`` the current one in this thread (what ``simulate`` does first in each of its threads)."""
    _current.set(replica)


@contextmanager
def simulation() -> Iterator[None]:
    """While replicas run as threads: take a thread that is none of them, and was not there before, for an error."""
    bystanders = set(threading.enumerate())
    _bystanders.append(bystanders)
    try:
        yield
    finally:
        _bystanders.remove(bystanders)


def _process_replica() -> Replica:
    thread = threading.current_thread()
    if thread not in _bystanders[0]:
        raise ReplicaError(
            f"thread {thread.name!r} was started inside a simulation and does not know for which replica it works: "
            "a new thread does not inherit that. Hand it on: threading.Thread(target=contextvars.copy_context().run, "
            "args=(fn,)), or executor.submit(contextvars.copy_context().run, fn)"
        )
    return _process
