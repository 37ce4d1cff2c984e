"""The strategy, which knows the replicas of this program, and how the current one is found."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Protocol

from distopt.distribute.agreement.checks import Checks, Deadlines
from distopt.distribute.agreement.communicator import Communicator, Location
from distopt.distribute.agreement.header import Call, agree
from distopt.distribute.handshake import handshake
from distopt.distribute.node.node import Node
from distopt.distribute.transports.local import LocalCommunicator
from distopt.distribute.transports.mpi import MPICommunicator
from distopt.errors import DeadCommunicatorError, InvalidArgumentError, NoSharedMemoryError
from distopt.former_names import FormerName
from distopt.process.launcher import launched, refuse_unserved_launcher
from distopt.process.replica import Replica, current_replica
from distopt.settings import CHECKS, DEADLINES, RECEIPT, UPDATE, UPDATES


class User(Protocol):
    """A holder of what was prepared with the replicas of a strategy."""

    def forget(self, communicator: Communicator) -> None:
        """Drop what was prepared with replicas that are no more together."""


class Strategy:
    """The replicas that train together, and how they hold their parameters.

    Args:
        communicator: how they reach each other; None decides by how the process was started.
        update: ``"replicated"``: every replica updates its own parameters and slots from the common sum. ``"shared"``:
            parameters and slots exist once per node, in shared memory, and each replica updates the part that it owns;
            ``Variable.assign`` is a collective then. None takes ``DISTOPT_UPDATE`` from the environment, else
            ``"replicated"``. The bits are the same.
        broadcast: whether the first step that aggregates makes parameters and slots those of replica 0.
        checks: what is checked in steps; None takes ``DISTOPT_CHECKS`` from the environment, else the defaults.
        deadlines: how long to wait for other replicas; None takes ``DISTOPT_DEADLINES``, else the defaults.
        receipt: a directory for a line about every step (``distopt diff`` compares two of them); None takes
            ``DISTOPT_RECEIPT``, else there is none.

    Raises:
        InvalidArgumentError: an ``update`` that is not known; ``"shared"`` without ``broadcast``.

    Example:
        >>> strategy = Strategy()
        >>> with strategy.scope():
        ...     get_strategy() is strategy
        True
    """

    def __init__(
        self,
        communicator: Communicator | None = None,
        *,
        update: str | None = None,
        broadcast: bool = True,
        checks: Checks | None = None,
        deadlines: Deadlines | None = None,
        receipt: str | os.PathLike[str] | None = None,
    ) -> None:
        self.update = UPDATE.read() if update is None else update
        if self.update not in UPDATES:
            raise InvalidArgumentError(f"Strategy(update={self.update!r}): expected 'replicated' or 'shared'")
        if self.update == "shared" and not broadcast:
            raise InvalidArgumentError(
                "Strategy(update='shared', broadcast=False): what exists once per node can't be kept apart; leave "
                "broadcast=True, or take update='replicated'"
            )
        if communicator is not None and not isinstance(communicator, Communicator):
            raise InvalidArgumentError(
                f"Strategy(communicator={communicator!r}): expected a distopt Communicator; an mpi4py communicator "
                "is wrapped as distopt.distribute.MPICommunicator(comm)"
            )
        self.communicator: Communicator = _started_communicator() if communicator is None else communicator
        self.broadcast = broadcast
        self.checks = Checks.from_environment(CHECKS) if checks is None else checks
        self.deadlines = Deadlines.from_environment(DEADLINES) if deadlines is None else deadlines
        self.receipt = RECEIPT.read() if receipt is None else receipt
        self.inspects = self.checks.on_nonfinite is not None or self.receipt is not None
        """True where the sums of gradients are looked at before they are used."""
        self.is_closed = False
        """True where what the strategy needs has been given back."""
        self._users: weakref.WeakSet[User] = weakref.WeakSet()
        self._blocks: list[ExitStack] = []
        self.communicator.strategies.add(self)
        self._is_ready = False
        self._location: Location | None = None
        self._node: Node | None = None
        self._node_known = False

    @property
    def num_replicas_in_sync(self) -> int:
        """The number of replicas."""
        return self.communicator.size

    @property
    def replica_index(self) -> int:
        """This replica's index."""
        return self.communicator.index

    @property
    def location(self) -> Location:
        """This replica's node, its index on the node, and the replicas there (collective at the first call)."""
        if self._location is None:
            agree(self.ready(), Call("location"))
            self._location = self.communicator.location
        return self._location

    place = FormerName("location")

    @contextmanager
    def scope(self) -> Iterator[Strategy]:
        """Make this the current strategy inside a ``with`` block: for this thread, and for those it can be told to.

        A thread uses the scope that it has entered itself. One that has entered none uses the innermost of the main
        thread (in ``simulate``: of the thread of its replica). What is made inside of a scope belongs to its strategy
        (``distopt.distribute.belonging``).
        """
        self._refuse_if_closed()
        with current_replica().scope(self):
            yield self

    def __enter__(self) -> Strategy:
        """Enter the strategy's scope; at the end of the block the strategy is closed too."""
        block = ExitStack()
        block.enter_context(self.scope())
        self._blocks.append(block)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the scope, and close; after an exception only leave: others may not come to the end of the block."""
        self._blocks.pop().close()
        if error is None:
            self.close()

    def close(self) -> None:
        """Give back what the replicas share for this strategy: communicators, connections and memory. Collective.

        A strategy that nobody uses any more is given back without this call, when the same replicas first use another
        one. Optimizers, data and metrics that belong to a closed strategy can't be used any more; an optimizer that was
        made outside of every scope goes on in another.

        Raises:
            InvalidArgumentError: it is the job's own strategy, which ends with the job.

        Example:
            >>> from distopt.distribute import LocalCommunicator
            >>> with Strategy(LocalCommunicator()) as strategy:
            ...     strategy.num_replicas_in_sync
            1
            >>> strategy.ready()
            Traceback (most recent call last):
            distopt.errors.DeadCommunicatorError: <Strategy on local> was closed: make another one, and what belongs \
to it in its scope
        """
        if self.is_closed:
            return
        if self is current_replica().default_strategy:
            raise InvalidArgumentError(
                "close(): this is the strategy of the whole job, and others meet here at its end. It needs no close; "
                "a Strategy of your own does"
            )
        if self._is_ready and self.num_replicas_in_sync > 1:
            agree(self.communicator, Call("close of a Strategy"))
        self.is_closed, self._is_ready = True, False
        for user in list(self._users):
            user.forget(self.communicator)
        self._node = None
        self.communicator.strategies.discard(self)
        if not self.communicator.strategies:
            self.communicator.close()

    def note_user(self, user: User) -> None:
        """Note who holds what was prepared with these replicas."""
        self._users.add(user)

    def _refuse_if_closed(self) -> None:
        if self.is_closed:
            raise DeadCommunicatorError(f"{self} was closed: make another one, and what belongs to it in its scope")

    def regroup(self, communicator: Communicator) -> None:
        """Go on among other replicas."""
        self.communicator = communicator
        communicator.strategies.add(self)
        self._is_ready = self._node_known = False
        self._location = self._node = None

    def ready(self) -> Communicator:
        """Return the communicator, after the first agreement of its replicas on what they run (once)."""
        if not self._is_ready:
            self._refuse_if_closed()
            if self.num_replicas_in_sync > 1:
                watchdog = self.communicator.watchdog
                watchdog.begin(self.deadlines)
                handshake(self.communicator, self._options())
                watchdog.begin(self.deadlines, self.communicator.status_channel())
            self._is_ready = True
        return self.communicator

    def _options(self) -> dict[str, str]:
        """Return what must be the same on all replicas, as a message shows it."""
        job: Strategy | None = current_replica().default_strategy
        is_of_job = job is not None and job.communicator is self.communicator
        return {
            "strategy": "the job's, outside of every scope" if is_of_job else "one that the script made",
            "update (DISTOPT_UPDATE)": self.update,
            "broadcast": str(self.broadcast),
            "checks (DISTOPT_CHECKS)": repr(self.checks),
            "deadlines (DISTOPT_DEADLINES)": repr(self.deadlines),
            "receipt (DISTOPT_RECEIPT)": "none" if self.receipt is None else "one for each replica",
        }

    @property
    def shares_parameters(self) -> bool:
        """Return whether parameters and slots are those of the node."""
        return self.update == "shared" and self.num_replicas_in_sync > 1

    def node(self) -> Node | None:
        """Return the replicas of this node, or None where they can't share memory (collective at the first call)."""
        if not self._node_known:
            self._node_known = True
            if self.num_replicas_in_sync > 1:
                try:
                    self._node = Node(self.communicator)
                except NoSharedMemoryError as error:
                    self.do_without_node(error)
        return self._node

    def do_without_node(self, reason: NoSharedMemoryError) -> None:
        """Sum by messages from now on, and say so: all replicas have met the same error."""
        self._node, self.update = None, "replicated"
        if self.replica_index == 0:
            warnings.warn(
                f"the replicas of a node can't share memory ({reason}): gradients are summed by messages, which is "
                "slower, and every replica keeps its own parameters. The results are the same",
                stacklevel=2,
            )

    def __repr__(self) -> str:
        return f"<Strategy on {self.communicator.name}>"


def get_strategy() -> Strategy:
    """Return the current strategy: the innermost scope, else the simulation's, else as the process was started.

    Local: it neither initialises MPI nor communicates.

    Example:
        >>> get_strategy().num_replicas_in_sync
        1
    """
    return strategy_of(current_replica())


def strategy_of(replica: Replica) -> Strategy:
    """Return the current strategy of a replica."""
    in_scope: Strategy | None = replica.strategy_in_scope
    return in_scope or replica.default_strategy or default_strategy(replica)


def default_strategy(replica: Replica) -> Strategy:
    """Return a replica's strategy outside of every scope: the simulation's, else as the process was started."""
    if replica.default_strategy is None:
        replica.default_strategy = Strategy()
    default: Strategy = replica.default_strategy
    return default


def _started_communicator() -> Communicator:
    default: Strategy | None = current_replica().default_strategy
    if default is not None and default.communicator.size > 1 and not isinstance(default.communicator, MPICommunicator):
        return default.communicator  # of simulated replicas, or of Ray's: nobody started this one for itself
    if launched() is not None:
        return MPICommunicator()
    refuse_unserved_launcher()
    return LocalCommunicator()
