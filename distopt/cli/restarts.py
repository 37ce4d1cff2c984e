"""Starts a failed job again; its script goes on from its last checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from distopt.speaking import say


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt to run a job."""

    status: int
    reason: str
    """The reason why the attempt ended, in one line."""
    is_stopped: bool
    """True where a person or a batch system stopped the attempt."""


def repeat(attempt: Callable[[int], Outcome], restarts: int) -> int:
    """Make attempts until one succeeds or is stopped, or no restart is left; return the last status.

    Args:
        attempt: function that is called with 0, 1, ...
        restarts: the most attempts after the first.

    Example:
        >>> repeat(lambda number: Outcome(status=3 - number, reason="it failed", is_stopped=False), restarts=1)
        2
    """
    number = 0
    while True:
        outcome = attempt(number)
        if outcome.status == 0 or outcome.is_stopped or number == restarts:
            return outcome.status
        number += 1
        say(f"\ndistopt run: starts again ({number} of at most {restarts}), since {outcome.reason}")
