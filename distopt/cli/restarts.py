"""Starting a job again that has failed: its script goes on from its last checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import click


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    status: int
    reason: str
    """What made it end, in one line."""
    is_stopped: bool
    """Whether a person or a scheduler stopped it."""


def repeat(attempt: Callable[[int], Outcome], restarts: int) -> int:
    """Make attempts until one succeeds or is stopped, or there have been so many restarts; return the last status.

    Args:
        attempt: called with 0, 1, ...
        restarts: how many attempts there may be after the first.

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
        click.echo(f"\ndistopt run: starts again ({number} of at most {restarts}), since {outcome.reason}", err=True)
