"""Ways to run one function as replicas; the conformance classes are parametrised over them.

A test is the same for every transport: a function that every replica calls, and assertions on the list of the
results. Under MPI the test itself runs on every replica, with the same results on each, so the assertions fail on
all replicas or on none.
"""

from __future__ import annotations

import abc
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any

from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import exchange_bytes
from distopt.distribute.simulation import run_on
from distopt.distribute.strategy import Strategy
from distopt.distribute.transports.local import LocalCommunicator
from distopt.distribute.transports.mpi import MPICommunicator
from distopt.distribute.transports.threads import Hub
from distopt.errors import ReplicaError
from distopt.process.replica import Replica, current_replica, enter_replica

PATIENCE = 5.0
"""Seconds that a replica whose function raised waits for the others to finish theirs."""


class Replicas(abc.ABC):
    """A way to run functions as replicas. For a transport of your own, write another such class.

    Example:
        >>> import distopt
        >>> replicas = SimulatedReplicas(3)
        >>> replicas(lambda offset: distopt.replica_index() + offset, 10)
        [10, 11, 12]
    """

    transport: str
    """The name of the communicators that the functions see."""
    count: int
    """The number of replicas."""

    @abc.abstractmethod
    def __call__(self, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """Call ``fn(*args)`` on every replica.

        Args:
            fn: function that each replica calls; it makes its variables itself.
            *args: arguments for every replica, which must not change them.

        Returns:
            The results, in the order of the replicas.

        Raises:
            BaseException: the error of the function. As long as replicas still wait for others, later calls raise too.
        """


class LocalReplica(Replicas):
    """This process, as the only replica.

    Example:
        >>> import distopt
        >>> LocalReplica()(distopt.num_replicas)
        [1]
    """

    transport = "local"
    count = 1

    def __call__(self, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """Call the function here."""
        return [_as_replica(LocalCommunicator(), fn, args)]


class SimulatedReplicas(Replicas):
    """Threads of this process.

    Args:
        count: the number of replicas.
        nodes: the node that each replica pretends to be on; by default one node for all.
    """

    transport = "threads"

    def __init__(self, count: int, nodes: Sequence[int] | None = None) -> None:
        self.count = count
        self._nodes = nodes

    def __call__(self, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """Call the function as in ``distopt.simulate``."""
        return run_on(Hub(self.count, self._nodes), fn, *args)


class ThreadReplicas(Replicas):
    """Threads of this process over a transport of yours: each thread becomes a replica before its function runs.

    A plain ``threading.Thread`` is no replica of its own: all threads of a process share one record, with the scopes
    that are open, so two of them would wait for each other over the same end of a transport.

    Args:
        make: function without arguments that returns new communicators of one group, one for each replica, in order.

    Example:
        >>> import distopt
        >>> from distopt.distribute import ThreadCommunicator
        >>> from distopt.distribute.transports.threads import Hub
        >>> def make():
        ...     hub = Hub(2)
        ...     return [ThreadCommunicator(hub, index) for index in range(2)]
        >>> ThreadReplicas(make)(lambda: float(distopt.all_reduce(distopt.replica_index() + 1.0)))
        [3.0, 3.0]
    """

    def __init__(self, make: Callable[[], Sequence[Communicator]]) -> None:
        self.make = make
        ends = make()
        self.transport, self.count = ends[0].name, len(ends)

    def __call__(self, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """Call the function in a new group; a replica that raises tells the others by ``Communicator.fail``."""
        ends = self.make()
        outcomes: list[Any] = [None] * self.count
        failures: list[BaseException] = []

        def run(index: int) -> None:
            try:
                outcomes[index] = _as_replica(ends[index], fn, args)
            except BaseException as failure:
                failures.append(failure)
                ends[index].fail(failure)

        # A context of its own for each: it has the observers of who calls, and no replica's record.
        threads = [
            threading.Thread(target=copy_context().run, args=(run, index), daemon=True) for index in range(self.count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise next((each for each in failures if not isinstance(each, ReplicaError)), failures[0])
        return outcomes


class ProcessReplicas(Replicas):
    """Processes that all run the same tests.

    Results travel pickled, on a communicator of their own.

    Args:
        communicator: the communicator that the functions see.
        results: another communicator of the same replicas, for the results.
    """

    def __init__(self, communicator: Communicator, results: Communicator) -> None:
        self.transport = communicator.name
        self._communicator, self._results = communicator, results
        self._stuck: BaseException | None = None

    @property
    def count(self) -> int:  # type: ignore[override]
        """Return the number of processes."""
        return self._communicator.size

    def __call__(self, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """Call the function here, and exchange the results with the other processes."""
        if self._stuck is not None:
            raise RuntimeError("the replicas wait for one another since an earlier failure") from self._stuck
        failure, outcome = None, None
        try:
            outcome = _as_replica(self._communicator, fn, args)
        except Exception as error:
            failure, outcome = error, traceback.format_exc()
        outcomes = self._exchange((failure is None, outcome), failure)
        if failure is not None:
            raise failure
        for replica, (succeeded, text) in enumerate(outcomes):
            if not succeeded:
                raise AssertionError(f"replica {replica} raised:\n{text}")
        return [result for _, result in outcomes]

    def _exchange(self, outcome: tuple[bool, Any], failure: Exception | None) -> list[tuple[bool, Any]]:
        deadline = None if failure is None else time.monotonic() + PATIENCE
        try:
            return [pickle.loads(text) for text in exchange_bytes(self._results, pickle.dumps(outcome), deadline)]
        except TimeoutError:
            self._stuck = failure
            assert failure is not None
            raise failure from None


class MPIReplicas(ProcessReplicas):
    """The processes that mpirun has started.

    Args:
        nodes: the node that each process pretends to be on; by default the real one.
    """

    def __init__(self, nodes: Sequence[int] = ()) -> None:
        super().__init__(MPICommunicator(nodes=nodes), MPICommunicator())


def _as_replica(communicator: Communicator, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call a function in a fresh record of a replica, without the names, tapes and batches of other calls."""

    def call() -> Any:
        observers, name = current_replica().observers, f"{communicator.name} replica"
        enter_replica(Replica(name=name, default_strategy=Strategy(communicator), observers=observers.copy()))
        return fn(*args)

    return copy_context().run(call)
