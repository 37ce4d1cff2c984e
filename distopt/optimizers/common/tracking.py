"""Finds the variables that users put into the attributes of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from distopt.variables.variable import Variable


def variables_in(value: Any) -> Iterator[Variable]:
    """Yield a value that is a Variable, and those in lists, tuples, sets and dicts, whatever else is in these."""
    if isinstance(value, Variable):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from variables_in(each)
    elif isinstance(value, (set, frozenset)):  # in an order that all replicas have
        yield from sorted((each for each in value if isinstance(each, Variable)), key=lambda each: each.number)
    elif isinstance(value, dict):
        for each in value.values():
            yield from variables_in(each)


class TrackedList(list[Variable]):
    """The list of an optimizer's variables: what is put in or taken out becomes, or is no more, a part of its state.

    Args:
        variables: the variables.
        track: what makes a variable a part of the state.
        untrack: what takes one out.
    """

    def __init__(
        self, variables: Iterable[Variable], track: Callable[[Variable], None], untrack: Callable[[Variable], None]
    ) -> None:
        super().__init__(variables)
        self._track, self._untrack = track, untrack

    def append(self, variable: Variable) -> None:
        """Make a variable part of the state."""
        self._track(variable)
        super().append(variable)

    def extend(self, variables: Iterable[Variable]) -> None:
        """Make variables part of the state."""
        for variable in variables:
            self.append(variable)

    def remove(self, variable: Variable) -> None:
        """Take a variable out of the state."""
        self._untrack(variable)
        self[:] = [each for each in self if each is not variable]
