"""N replicas in one process: for tests, notebooks and research."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from distopt.arguments import as_int
from distopt.distribute.strategy import Strategy
from distopt.distribute.transports.threads import Hub, ThreadCommunicator
from distopt.errors import InvalidArgumentError, ReplicaError
from distopt.process import forked
from distopt.process.replica import Replica, current_replica, enter_replica, simulation
from distopt.process.thread_limits import limit_threads

T = TypeVar("T")


def simulate(num_replicas: int, fn: Callable[..., T], *args: Any, **kwargs: Any) -> list[T]:
    """Run ``fn(*args, **kwargs)`` as N simulated replicas and return their results, in replica order.

    Each replica is a thread with a strategy of its own; with the same N it gives the same bits as ``mpirun``.
    Variables must be made inside ``fn``. BLAS is limited to the configured threads while the simulation runs.
    A thread that ``fn`` starts works for its replica only if it runs in a copy of its context
    (``contextvars.copy_context().run``). After Ctrl-C the replicas end at their next collective; one that calls none
    can't be stopped.

    Args:
        num_replicas: how many replicas, 1 or more.
        fn: the training function.
        *args: handed to every replica (the same objects: do not change them in ``fn``).
        **kwargs: likewise.

    Raises:
        BaseException: the first failure of a replica, with a note that names its index.
        ReplicaError: a replica called ``sys.exit``.

    Example:
        >>> import distopt
        >>> simulate(3, lambda: distopt.replica_index() + distopt.num_replicas())
        [3, 4, 5]
    """
    count = as_int(num_replicas)
    if count is None or count < 1:
        raise InvalidArgumentError(f"simulate(num_replicas={num_replicas!r}): expected an int, 1 or more")
    return run_on(Hub(count), fn, *args, **kwargs)


def run_on(hub: Hub, fn: Callable[..., T], *args: Any, **kwargs: Any) -> list[T]:
    """Run a function as the replicas of a hub: ``simulate`` with replicas that may pretend to be on several nodes."""
    num_replicas = hub.size
    results: list[Any] = [None] * num_replicas
    observers = current_replica().observers

    def run(index: int) -> None:
        hub.watchdogs[index].thread = threading.get_ident()
        communicator = ThreadCommunicator(hub, index)
        name, strategy = f"simulated replica {index}", Strategy(communicator)
        enter_replica(Replica(name=name, default_strategy=strategy, observers=observers.copy()))
        failure: BaseException | None = None
        try:
            results[index] = fn(*args, **kwargs)
        except BaseException as error:
            failure = error
        if os.getpid() != hub.process:
            forked.end(failure)
        if isinstance(failure, SystemExit):
            # Raised by the caller it would end the whole program, which knows nothing of replicas.
            code = failure
            failure = ReplicaError(f"replica {index} called sys.exit({code.code!r})")
            failure.__cause__ = code
        if failure is not None:
            communicator.fail(failure)
        hub.note_end(index)

    threads = [threading.Thread(target=run, args=(r,), name=f"replica-{r}", daemon=True) for r in range(num_replicas)]
    with limit_threads(), simulation():
        try:
            for thread in threads:
                thread.start()
            with hub.changed:
                hub.changed.wait_for(lambda: hub.is_over)
            for index in hub.left:
                threads[index].join()
        except BaseException as interruption:
            hub.stop(f"{type(interruption).__name__} in its caller")
            raise
    if hub.first_failure is not None:
        index, failure = hub.first_failure
        failure.add_note(f"raised by simulated replica {index} of {num_replicas}")
        raise failure
    return results
