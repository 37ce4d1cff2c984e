"""The strategy, which knows the replicas of this program, and how the current one is found."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from distopt.distribute.agreement.checks import Checks, Deadlines
from distopt.distribute.agreement.communicator import Communicator, Location
from distopt.distribute.agreement.header import Call, agree
from distopt.distribute.handshake import handshake
from distopt.distribute.node.node import Node
from distopt.distribute.transports.local import LocalCommunicator
from distopt.distribute.transports.mpi import MPICommunicator
from distopt.errors import InvalidArgumentError, NoSharedMemoryError
from distopt.former_names import FormerName
from distopt.process.launcher import launched, refuse_unserved_launcher
from distopt.process.replica import Replica, current_replica
from distopt.settings import CHECKS, DEADLINES, RECEIPT, UPDATE, UPDATES


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
        with current_replica().scope(self):
            yield self

    def regroup(self, communicator: Communicator) -> None:
        """Go on among other replicas."""
        self.communicator = communicator
        self._is_ready = self._node_known = False
        self._location = self._node = None

    def ready(self) -> Communicator:
        """Return the communicator, after the first agreement of its replicas on what they run (once)."""
        if not self._is_ready:
            self._is_ready = True
            if self.num_replicas_in_sync > 1:
                watchdog = self.communicator.watchdog
                watchdog.begin(self.deadlines)
                handshake(self.communicator, self.update, self.checks)
                watchdog.begin(self.deadlines, self.communicator.status_channel())
        return self.communicator

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
