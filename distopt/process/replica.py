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
class Work:
    """The counts of a replica in the order of its program: one for each thread that has entered a scope of its own.

    Two threads come to what they count in another order on each replica.
    """

    draws: Draws = field(default_factory=Draws)
    """The counts of its random numbers."""
    names: dict[str, Iterator[int]] = field(default_factory=dict)
    """The numbers of names that nobody gave."""
    batches: list[Any] = field(default_factory=list)
    """The current batches of ``distopt.data``, the one handed out last at the end."""


class OfThread(threading.local):
    """The state that each thread of a replica has for itself; read in every step, so plain attributes."""

    updating: Any = None
    """The call of the step that updates variables from the sum now, and does the same on all replicas; else None."""
    averaged_loss: str | None = None
    """Name of a loss that was averaged under a tape since the last step (``items=`` would divide twice)."""

    def __init__(self) -> None:
        self.tapes: list[Any] = []
        """The open gradient tapes, innermost last."""


@dataclass(eq=False, frozen=True)
class _Scope:
    """An open ``Strategy.scope()`` block."""

    replica: Replica
    strategy: Any
    work: Work


_scopes: ContextVar[tuple[_Scope, ...]] = ContextVar("distopt_scopes", default=())
"""The blocks that this thread has entered, innermost last."""


@dataclass(eq=False)
class Replica:
    """The private record of one replica: who it is, its open tapes, its current batch."""

    name: str = "this process"
    number: int = field(default_factory=lambda: next(_numbers))
    default_strategy: Any = None
    """The answer of ``get_strategy`` outside of every scope, once it has been decided."""
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
    thread: int | None = field(default_factory=lambda: threading.main_thread().ident)
    """Its main thread: a thread without a scope of its own is in that one's."""
    _main_scopes: tuple[_Scope, ...] = ()
    _work: Work = field(default_factory=Work)
    of_thread: OfThread = field(default_factory=OfThread)
    """The state of the thread that asks."""

    @property
    def strategy_in_scope(self) -> Any:
        """The strategy of the innermost scope: of this thread's, else of the main thread's; None outside of all."""
        scopes = _scopes.get()
        if not scopes or scopes[-1].replica is not self:
            scopes = self._main_scopes
        return scopes[-1].strategy if scopes else None

    @contextmanager
    def scope(self, strategy: Any) -> Iterator[None]:
        """Make a strategy the current one of this thread and, in the main thread, of those without a scope."""
        outer, is_main = self._own_scope(), threading.get_ident() == self.thread
        work = self._work if is_main else Work(self._work.draws.copy())
        mine = _Scope(self, strategy, work if outer is None else outer.work)
        _scopes.set((*_scopes.get(), mine))
        if is_main:
            self._main_scopes = (*self._main_scopes, mine)
        try:
            yield
        finally:  # generators may leave their blocks in any order
            _scopes.set(tuple(each for each in _scopes.get() if each is not mine))
            self._main_scopes = tuple(each for each in self._main_scopes if each is not mine)

    def _own_scope(self) -> _Scope | None:
        scopes = _scopes.get()
        return scopes[-1] if scopes and scopes[-1].replica is self else None

    @property
    def work(self) -> Work:
        """The counts of this thread, where it has entered a scope of its own; else those of the replica."""
        scope = self._own_scope()
        return self._work if scope is None else scope.work

    @property
    def draws(self) -> Draws:
        """The counts of random numbers."""
        return self.work.draws

    @draws.setter
    def draws(self, draws: Draws) -> None:
        self.work.draws = draws

    @property
    def batch(self) -> Any:
        """The current batch of ``distopt.data``: this thread's, else the replica's; None outside of all."""
        batches = self.work.batches or self._work.batches
        return batches[-1] if batches else None

    @property
    def tapes(self) -> list[Any]:
        """This thread's open gradient tapes, innermost last."""
        return self.of_thread.tapes


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
    replica.thread = threading.get_ident()


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
