"""To which strategy an object belongs: optimizers, data, metrics and checkpointers all follow this rule.

* What was made inside of a ``Strategy.scope()`` belongs to that strategy. Its collectives are made among the replicas
  of that strategy, wherever they are called; so are those of the user's hooks that it calls.
* What was made outside of every scope belongs to none: it follows the current strategy of the thread that uses it.

So two threads train side by side, each in a scope of its own, and a program for one process needs no scope at all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from distopt.distribute.strategy import Strategy, strategy_of
from distopt.process.replica import current_replica

P = ParamSpec("P")
R = TypeVar("R")


class Belonging:
    """The strategy that an object belongs to, decided where this is made."""

    def __init__(self) -> None:
        self.own: Strategy | None = current_replica().strategy_in_scope
        """The strategy that it was made in; None outside of every scope."""

    @property
    def strategy(self) -> Strategy:
        """The object's own strategy, else the current one."""
        return self.own or strategy_of(current_replica())

    def entered(self) -> AbstractContextManager[object]:
        """Return a block in which the object's strategy is the current one."""
        return nullcontext() if self.is_entered else self.strategy.scope()

    @property
    def is_entered(self) -> bool:
        """True where the object's strategy is the current one."""
        return self.own is None or self.own is current_replica().strategy_in_scope

    def __deepcopy__(self, memo: dict[int, Any]) -> Belonging:
        """Return this one: a copy belongs where the original does."""
        return self

    def __reduce__(self) -> tuple[type[Belonging], tuple[()]]:
        """Leave the strategy behind: who is unpickled belongs where that happens."""
        return Belonging, ()


class _Belongs(Protocol):
    """An object that belongs to a strategy."""

    @property
    def _distopt_belonging(self) -> Belonging | None:
        """Return where it belongs; None before that is known."""


T = TypeVar("T", bound=_Belongs)


def in_own_scope(method: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[T, P], R]:
    """Let a method run in the scope of its object's strategy."""

    @functools.wraps(method)
    def call(self: T, /, *args: P.args, **kwargs: P.kwargs) -> R:
        belonging = self._distopt_belonging
        if belonging is None or belonging.is_entered:
            return method(self, *args, **kwargs)
        with belonging.entered():
            return method(self, *args, **kwargs)

    return call
