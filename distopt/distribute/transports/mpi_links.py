"""The duplicates of MPI communicators that distopt makes, and the moment at which it gives them back.

A *link* is a duplicate of a communicator of the user's, with all that was made on it. All replicas free it at one
moment that they have agreed on: when its Strategy is closed or, where nobody uses it any more, when the same processes
begin to use another one. A replica that has dropped a link sees to its end of it until then: others may still call.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Collection
from typing import Any

from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.open_communicators import note_closed, note_opened
from distopt.distribute.agreement.watchdog import Watchdog
from distopt.distribute.node.mailbox import Mailbox
from distopt.distribute.transports.mpi_library import load_mpi
from distopt.distribute.transports.mpi_status_channel import MPIStatusChannel
from distopt.process import forked

_dropped: list[Link] = []
"""Links that nobody here uses any more, and that the others have not agreed to free."""

_freeing = threading.Lock()


class Over:
    """The common part of all links over one communicator of the user's; it is kept on that communicator.

    Args:
        index: this process's rank there.
    """

    def __init__(self, index: int) -> None:
        self.watchdog = Watchdog(index)
        self.opened = 0
        """The number of links that were opened so far, the same on all replicas."""
        self._links: set[Link] = set()
        self._has_ended = False

    def add(self, link: Link) -> int:
        """Note a link, and return its number."""
        self._links.add(link)
        self.opened += 1
        return self.opened - 1

    def announce_end(self) -> None:
        """Tell the others, once, that this replica opens no link any more."""
        channel = self.watchdog.status_channel
        if isinstance(channel, MPIStatusChannel) and not self._has_ended:
            channel.announce_end()
        self._has_ended = True

    def give_back(self, link: Link) -> None:
        """Do without a link; the status channel goes with the last of them."""
        self._links.discard(link)
        channel = self.watchdog.status_channel
        if not self._links and isinstance(channel, MPIStatusChannel):
            self.watchdog.status_channel = None
            channel.close()


@functools.cache
def _key(mpi: Any) -> int:
    return int(mpi.Comm.Create_keyval())


def links_over(mpi: Any, comm: Any) -> Over:
    """Return the common part of links over a communicator of the user's."""
    over: Over | None = comm.Get_attr(_key(mpi))
    if over is None:
        over = Over(int(comm.rank))
        comm.Set_attr(_key(mpi), over)
    return over


class Link:
    """One duplicate of a communicator of the user's, and what was made on it."""

    def __init__(self) -> None:
        self.comm: Any = None
        """The duplicate; None before the first collective, and when it has been given back."""
        self.dead: str | None = None
        """The reason for which it can't be used any more."""
        self.mailbox: Mailbox | None = None
        self.duplicates: list[Any] = []
        """Further duplicates, for other threads and libraries."""
        self.number: int | None = None
        """Its number among the links over the user's communicator."""
        self.name = ""
        """Its name among its replicas."""
        self.members: tuple[int, ...] = ()
        """The ranks of its replicas in the job."""
        self.over: Over | None = None
        """The common part of all links over that communicator."""
        self._requests: dict[int, list[Any]] = {}

    def open(self, comm: Any, over: Over, user: Communicator, again: Callable[[Link], Communicator]) -> int:
        """Note that the duplicate is there, and that its replicas may wait for this one.

        Args:
            comm: the duplicate.
            over: what the link has in common with others.
            user: who uses the link; when it is gone the link counts as dropped.
            again: returns another communicator over the link, for its end.

        Returns:
            Its number among the links over the user's communicator.
        """
        self.comm, self.over = comm, over
        self.number = number = over.add(self)
        group, job = comm.Get_group(), load_mpi().COMM_WORLD.Get_group()
        self.members = tuple(group.Translate_ranks(None, job))
        group.Free()
        job.Free()
        found = weakref.ref(user)
        note_opened(self, lambda: found() or again(self))
        weakref.finalize(user, _dropped.append, self).atexit = False
        return number

    def note_name(self, name: str) -> None:
        """Note the name that the replicas have agreed on."""
        self.name = self.name or name

    def keep_for(self, transfer: object, requests: list[Any]) -> None:
        """Keep persistent requests as long as their transfer and the link are there."""
        self._requests[id(requests)] = requests

        def give_back() -> None:
            if self._requests.pop(id(requests), None) is not None and self.dead is None and _is_usable():
                _free(requests)

        weakref.finalize(transfer, give_back).atexit = False

    def close(self) -> None:
        """Give everything back; all replicas do so at one moment, and nothing is under way."""
        if self.over is None or self.dead is not None or not _is_usable():
            return
        self.dead = "its Strategy was closed"
        self.over.give_back(self)
        note_closed(self)
        for requests in self._requests.values():
            _free(requests)
        for each in (*self.duplicates, self.comm):
            each.Free()
        self.comm, self.mailbox, self.duplicates, self._requests = None, None, [], {}


def dropped_among(members: tuple[int, ...]) -> list[str]:
    """Return the names of links among these processes that nobody here uses any more."""
    return [link.name for link in list(_dropped) if link.name and link.members == members and link.dead is None]


def free_dropped(names: Collection[str]) -> None:
    """Give back links that no replica uses any more, as all of them have agreed."""
    with _freeing:
        for link in sorted((link for link in list(_dropped) if link.name in names), key=lambda link: link.name):
            link.close()
        for link in [link for link in list(_dropped) if link.dead is not None]:
            _dropped.remove(link)  # it is given back, or was broken before it was dropped


def _is_usable() -> bool:
    return not forked.in_child and not load_mpi().Is_finalized()


def _free(requests: list[Any]) -> None:
    for request in requests:
        request.Free()
