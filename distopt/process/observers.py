"""Tells the observers of this replica what a step does: receipts, ``distopt verify`` and injected faults are some.

Nobody observes most programs: then each call here returns at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from distopt.process.moments import Moment, Observer, Reading
from distopt.process.replica import current_replica


def observe(moment: Moment, subject: Any = None) -> Any:
    """Tell the observers of this replica of a moment; return the answer of one, or None.

    Args:
        moment: which.
        subject: what the moment is about; ``Moment`` says what it is.

    Example:
        >>> from distopt.process.replica import current_replica
        >>> def show(moment, subject):
        ...     print(moment.value, subject)
        >>> current_replica().observers.add(show, Moment.CHECKPOINT)
        >>> observe(Moment.CHECKPOINT, 12)
        a checkpoint is saved 12
        >>> current_replica().observers.remove(show)
        >>> observe(Moment.CHECKPOINT, 13)
    """
    observers = current_replica().observers
    return observers.tell(moment, subject) if observers else None


def add_observer(observer: Observer, *moments: Moment) -> None:
    """Tell an observer of some moments of this replica, and of replicas that are simulated from here.

    Args:
        observer: function of a moment and its subject.
        *moments: which; without any, all that change no step's way.
    """
    current_replica().observers.add(observer, *moments)


def remove_observer(observer: Observer) -> None:
    """Tell an observer nothing any more."""
    current_replica().observers.remove(observer)


def is_observed(moment: Moment) -> bool:
    """Return whether anybody is told of a moment of this replica."""
    return current_replica().observers.want(moment)


def observed_gradient(gradient: Any, variable: Any) -> Any:
    """Return a gradient, or what an observer has put in its place."""
    if not is_observed(Moment.GRADIENT):
        return gradient
    reading = Reading(variable, gradient)
    observe(Moment.GRADIENT, reading)
    return reading.gradient


def observed_gradients(pairs: Iterable[tuple[Any, Any]]) -> Iterable[tuple[Any, Any]]:
    """Return (gradient, variable) pairs, each observed when its turn comes."""
    return _one_by_one(pairs) if is_observed(Moment.GRADIENT) else pairs


def _one_by_one(pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    for gradient, variable in pairs:
        yield observed_gradient(gradient, variable), variable
