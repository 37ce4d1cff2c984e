"""The communicators that this process has open: at its end it says goodbye, or offers its failure, on each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distopt.distribute.agreement.communicator import Communicator

_opened: dict[object, Callable[[], Communicator]] = {}
_has_lost_replicas = False


def note_opened(link: object, communicator: Callable[[], Communicator]) -> None:
    """Note that the others may wait for this process from now on.

    Args:
        link: where: they may wait there even when this process has dropped its communicator.
        communicator: returns a communicator over it.
    """
    _opened[link] = communicator


def note_closed(link: object) -> None:
    """Note that nobody waits there any more."""
    _opened.pop(link, None)


def opened() -> list[Communicator]:
    """Return the communicators in use, in the order in which they were opened."""
    return [communicator() for communicator in list(_opened.values())]


def note_lost_replicas() -> None:
    """Note that others have died and this one goes on: some of the job can't come to its end any more."""
    global _has_lost_replicas
    _has_lost_replicas = True


def has_lost_replicas() -> bool:
    """Return whether this process goes on without others that have died."""
    return _has_lost_replicas
