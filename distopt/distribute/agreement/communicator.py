"""The contract that every transport keeps.

A transport moves bytes and nothing else. It knows two operations, both called by all replicas in the same order:

* ``all_gather``: a small record of fixed size from everybody to everybody: the headers;
* ``transfer``: arrays between pairs of replicas (the spans of a sum, parameters): the payload.

The two never pair with one another: a replica that offers its failure in a header can't be taken for a payload.

It also says one word in a hurry: ``fail`` tells the others not to wait for this replica any more.

Everything above (agreement, the order of summation, broadcast) is written once, on these two. Whether the replicas
call the same thing is settled by the step header *before* a payload moves, so a transport may trust its callers.

A process is one replica. Whoever runs replicas as threads lets each enter a record of its own first, as
``distopt.testing.ThreadReplicas`` does; else they share what a replica has once, such as a request to stop.

Rejected: a richer contract (allreduce, broadcast, ... per transport). It would put the order of summation into
the hands of each transport, and the bits with it.
"""

from __future__ import annotations

import abc
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from distopt.distribute.agreement.watchdog import StatusChannel, Watchdog
from distopt.errors import ReplicaFailedError
from distopt.former_names import FormerName, adopt_former_names

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Location:
    """The location of a replica: its node, its index on the node, and the number of replicas there."""

    node: int
    index_on_node: int
    replicas_on_node: int


class Barrier(Protocol):
    """A barrier of the replicas of a node."""

    def __call__(self) -> None:
        """Return when every replica of the node has called it."""

    def abandon(self) -> None:
        """Make this replica's thread that waits in it, and every later call here, raise DeadCommunicatorError."""


class Transfer(Protocol):
    """A prepared transfer: call it to move the arrays' present contents."""

    def __call__(self) -> None:
        """Move the arrays; returns when all that this replica sends and receives is done."""


def does_something_else(replica: int, sent: str, awaited: str) -> ReplicaFailedError:
    """Return the error that says that a replica sent what was not awaited: it has left the common order of calls.

    Args:
        replica: who it is.
        sent: what it sent, in words.
        awaited: what it should have sent.
    """
    return ReplicaFailedError(
        f"replica {replica} does something else: it sent {sent} where {awaited} were awaited. It has failed in the "
        "middle of a step, or the replicas do not make the same calls",
        replica,
    )


class Copies:
    """A transfer inside a process.

    Args:
        pairs: source and target, either may be None.
    """

    def __init__(self, pairs: Sequence[tuple[Array | None, Array | None]]) -> None:
        self._pairs = [(source, target) for source, target in pairs if source is not None and target is not None]

    def __call__(self) -> None:
        """Copy."""
        for source, target in self._pairs:
            np.copyto(target, source)


class Stage(NamedTuple):
    """One stage of a sum: call ``collect``, add ``rows`` into ``out``, call ``distribute``."""

    collect: Transfer
    rows: list[Array]
    out: Array
    distribute: Transfer


class SharedSums(Protocol):
    """Sums of arrays of the replicas' own, through memory that all of them share."""

    def stages(self, flat: Array, limits: Callable[[int, int], list[int]]) -> list[Stage]:
        """Return the stages of a sum.

        Args:
            flat: contiguous array of shape (n,).
            limits: cuts a piece of so many elements into spans for so many replicas.
        """

    def abandon(self) -> None:
        """Make this replica's thread that waits in a sum, and every later one, raise DeadCommunicatorError."""


class Communicator(abc.ABC):
    """The connection of one replica to the others of its job."""

    name: str
    """The transport's name, as messages show it."""
    staging: SharedSums | None = None
    """Sums arrays of the replicas' own; None: transfers do."""
    _optimizers: int = 0
    watch, line = FormerName("watchdog"), FormerName("status_channel")
    place, twin = FormerName("location"), FormerName("clone")

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        adopt_former_names(cls)

    @property
    @abc.abstractmethod
    def index(self) -> int:
        """This replica's index, 0 ... size - 1."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of replicas."""

    @property
    @abc.abstractmethod
    def nodes(self) -> tuple[int, ...]:
        """The node of every replica, numbered from 0. The first call may communicate: all replicas make it together."""

    @property
    def number(self) -> int:
        """Its number among several communicators of the same replicas: those that have one watchdog."""
        return 0

    @property
    def location(self) -> Location:
        """This replica's node and index on it."""
        nodes = self.nodes
        node = nodes[self.index]
        return Location(node, nodes[: self.index].count(node), nodes.count(node))

    def node_barrier(self, node: Any) -> Barrier | None:
        """Make a barrier of the replicas of a node; all replicas call it together.

        Args:
            node: a ``Node`` of this communicator's replicas.

        Returns:
            None where this transport's replicas share no memory.
        """
        return None

    @abc.abstractmethod
    def all_gather(self, mine: Array, deadline: float | None = None) -> Array:
        """Give every replica everybody's record.

        Args:
            mine: uint8 array of shape (n,), the same n on every replica; not kept after the return.
            deadline: ``time.monotonic()`` time after which to give up; None waits.

        Returns:
            uint8 array of shape (size, n), row r from replica r. Valid until the next ``all_gather``.

        Raises:
            TimeoutError: the deadline passed; the communicator is dead from then on.
        """

    def gathering(self, mine: Array, deadline: float | None = None) -> Iterator[Array | None]:
        """Give every replica everybody's record, as ``all_gather`` does; None as long as one is missing.

        So a replica that ends is there for whoever comes, on all of its communicators at once. Here it waits.
        """
        yield self.all_gather(mine, deadline)

    @abc.abstractmethod
    def prepare(
        self, sends: Sequence[Array | None], receives: Sequence[Array | None], *, once: bool = False
    ) -> Transfer:
        """Prepare to send ``sends[r]`` to replica r and to fill ``receives[r]`` from it, for all r at once.

        Local: nothing moves before the transfer is called, by all replicas together, as often as they like.

        Args:
            sends: one contiguous array or None per replica; read at each call, not changed.
            receives: one contiguous array or None per replica, as long as what its replica sends; overwritten.
            once: the transfer will be called once only: what makes later calls cheaper is not worth its cost.
        """

    @abc.abstractmethod
    def clone(self) -> Communicator:
        """Return another communicator of the same replicas, for another thread; all replicas call it together.

        What its thread sends never pairs with what goes through this one. Both have the same ``watchdog``.
        """

    @cached_property
    def watchdog(self) -> Watchdog:
        """Return this replica's watchdog; a transport that waits keeps it up to date, and calls its ``check``."""
        return Watchdog(self.index)

    def status_channel(self) -> StatusChannel | None:
        """Make how the watchdog asks the other replicas, together with them; None: in no other way than so far."""
        return None

    @cached_property
    def strategies(self) -> weakref.WeakSet[Any]:
        """The strategies that use this communicator."""
        return weakref.WeakSet()

    def number_optimizer(self) -> int:
        """Count an optimizer that the replicas have begun to step together, and return its number, from 1."""
        self._optimizers += 1
        return self._optimizers

    def release(self) -> None:  # noqa: B027 (most transports do not mind)
        """Let another thread than so far use this communicator."""

    def dropped(self) -> list[str]:
        """Return the names of connections among the same replicas that this one does not use any more."""
        return []

    def note_first_agreement(self, name: str, dropped: Collection[str]) -> None:  # noqa: B027 (most have none)
        """Note that all replicas have met; they do so in the same moment.

        Args:
            name: a name for what connects them here.
            dropped: the connections that none of them uses any more, to be given back.
        """

    def close(self) -> None:  # noqa: B027 (the memory of the process is given back of itself)
        """Give back what connects the replicas; they do so in the same moment, and make no call here any more."""

    def abandon(self) -> None:  # noqa: B027 (where nobody waits there is nothing to do)
        """Make this replica's thread that waits in this communicator, and every later call, raise."""

    @abc.abstractmethod
    def fail(self, error: BaseException) -> None:
        """Tell the other replicas that this one has failed: the last that it does here and in all clones.

        Whoever waits for this replica, now or later, in a header, a payload or a node's memory, raises
        ReplicaFailedError within a second or so, and has a dead communicator. What this replica itself was told of
        another's failure is passed on as it is. A failure that all can go on after is offered in the header instead
        (``telling_the_others``), and so, for a while, is one that ends the job (``goodbye``): there all agree on
        which came first. This is for those who come to no header.

        Never raises, in whatever state the communicator is; waits for no other replica, but a few seconds for one that
        does not even take a message.

        Args:
            error: why this replica ends.
        """

    def say_ended(self) -> None:  # noqa: B027 (where nothing is opened later)
        """Tell the other replicas that this one ends, and makes nothing new together with them."""

    def break_off(self, error: BaseException) -> None:
        """Tell the other replicas that this one has left its present call in the middle, after the header.

        Whoever waits for its part there, in a payload or a node's memory, raises ReplicaFailedError within a second or
        so; then nobody meets in a header any more, and all later calls raise, here too. Where the others have left the
        call as well, nobody waits: all meet in the next header and can go on.

        Never raises, waits for no other replica. Without a ``status_channel`` the others are not told.

        Args:
            error: why it left.
        """
        watchdog = self.watchdog
        if watchdog.lost is not None:  # it has waited in vain itself: it can't come to a header
            self.fail(watchdog.lost)
        elif watchdog.status_channel is not None:
            watchdog.status_channel.announce_left(watchdog.calls, error)

    def transfer(self, sends: Sequence[Array | None], receives: Sequence[Array | None]) -> None:
        """Prepare a transfer and do it once."""
        self.prepare(sends, receives, once=True)()
