"""The communicators that this process has open: at its end it says goodbye, or offers its failure, on each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distopt.distribute.agreement.communicator import Communicator

_opened: list[Communicator] = []
_has_lost_replicas = False


def note_opened(communicator: Communicator) -> None:
    """Note that the others may wait for this process on a communicator from now on."""
    _opened.append(communicator)


def note_closed(communicator: Communicator) -> None:
    """Note that nobody waits there any more."""
    _opened.remove(communicator)


def opened() -> list[Communicator]:
    """Return the communicators in use, in the order in which they were opened."""
    return list(_opened)


def note_lost_replicas() -> None:
    """Note that others have died and this one goes on: some of the job can't come to its end any more."""
    global _has_lost_replicas
    _has_lost_replicas = True


def has_lost_replicas() -> bool:
    """Return whether this process goes on without others that have died."""
    return _has_lost_replicas
