"""Makes a process that Ray has started one replica of a group."""

from __future__ import annotations

import functools
import os
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Self

import ray

from distopt.arguments import as_int
from distopt.distribute.agreement.goodbye import say_goodbye
from distopt.distribute.strategy import Strategy
from distopt.distribute.transports.connections.peers import Member, Peers, listen
from distopt.distribute.transports.sockets import RayCommunicator
from distopt.errors import InvalidArgumentError, ReplicaFailedError
from distopt.process import forked
from distopt.process.names import count_anew
from distopt.process.replica import current_replica
from distopt.ray.portable import make_portable
from distopt.ray.rendezvous import Rendezvous

MEET_SECONDS = 60.0
"""Seconds that replicas wait for each other when they form a group."""


class Group:
    """This process's membership in a group: until the process leaves, ``get_strategy()`` returns the group's strategy.

    Used as a context manager, the process leaves at the end of the block, together with the other members. When the
    block raises, the others are told, and raise as well. An exception in another thread of the process ends the
    membership too: the others are told at once, and this replica raises it in its next call, at the latest at the end
    of the block.

    Args:
        peers: the connections to the other members.
    """

    def __init__(self, peers: Peers) -> None:
        self._communicator = RayCommunicator(peers)
        self._communicator.status_channel()
        self._replica = current_replica()
        count_anew()
        self._replica.default_strategy = Strategy(self._communicator)
        self.is_member = True
        self.on_thread_failure: Callable[[ReplicaFailedError], None] | None = None
        """Is called when a thread has failed: the one that uses the group may never call it again."""
        self._thread_failure: ReplicaFailedError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.leave()
            return
        first = self._thread_failure or error
        self.fail(first)
        make_portable(first)
        if first is not error:
            raise first from error

    def leave(self) -> None:
        """Leave the group, together with the others: every member must have done the same calls before.

        Raises:
            ReplicaFailedError: another replica has failed meanwhile, or another thread of this one.
        """
        try:
            if self._thread_failure is not None:
                raise self._thread_failure
            if self.is_member and self._communicator.size > 1:
                failed = say_goodbye(self._communicator)
                if failed is not None:
                    raise ReplicaFailedError(f"replica {failed} failed while this one had ended", failed)
        except BaseException as error:
            self.fail(error)
            raise
        if self.is_member:
            self._communicator.announce_end()
            self._close()

    def fail(self, error: BaseException) -> None:
        """Leave the group because of an error: the others raise where they wait for this replica."""
        if self.is_member:
            self._communicator.fail(error)
            self._close()

    def fail_in_thread(self, name: str, error: BaseException) -> None:
        """Tell the others that a thread of this process has failed, and make this replica raise it as well.

        Args:
            name: the thread's.
            error: what it raised.
        """
        index, text = self._communicator.index, "".join(traceback.format_exception(error)).strip()
        failure = ReplicaFailedError(f"replica {index} failed: in thread {name!r}:\n{text}", index)
        self._thread_failure = self._thread_failure or failure
        watchdog = self._communicator.watchdog
        watchdog.lost = watchdog.lost or failure
        self._communicator.fail(failure)
        if self.on_thread_failure is not None:
            self.on_thread_failure(failure)

    def forget_connections(self) -> None:
        """Close the connections in a child that was forked from the replica, without an effect on the replica."""
        self._communicator.peers.forget()

    def _close(self) -> None:
        self.is_member = False
        self._communicator.peers.close()
        self._replica.default_strategy = None


_current: list[Group] = []


def init_group(index: int, count: int, name: str = "default") -> Group:
    """Make this process one of the replicas of a group: in a Ray actor, task or driver.

    All replicas call this function at the same time. A process that is a member of another group leaves that group at
    once, without waiting for the others there. So the survivors of a failure can form a new group.

    Args:
        index: this replica's index, 0 ... count - 1.
        count: the number of replicas.
        name: the name of the group, unique in the Ray job (all that one driver has started) while the group forms.

    Returns:
        The group; ``with init_group(...):`` tells the others how the block ends.

    Raises:
        InvalidArgumentError: an argument is impossible, or contradicts those of the other replicas.
        ReplicaError: not all replicas have come within a minute.

    Example:
        >>> _ = ray.init(address="local", num_cpus=2, include_dashboard=False)
        >>> @ray.remote(num_cpus=1)
        ... def train(index):
        ...     import distopt
        ...     with distopt.ray.init_group(index, 2, "doctest"):
        ...         return float(distopt.all_reduce(index + 1.0))
        >>> ray.get([train.remote(0), train.remote(1)])
        [3.0, 3.0]
        >>> ray.shutdown()
    """
    if as_int(count) is None or as_int(index) is None or not 0 <= index < count:
        raise InvalidArgumentError(f"init_group(index={index!r}, count={count!r}): expected 0 <= index < count")
    if not ray.is_initialized():
        raise InvalidArgumentError(
            "init_group: this process belongs to no Ray cluster: call it in an actor or task, or after ray.init()"
        )
    rendezvous = Rendezvous(name, index, count, MEET_SECONDS)
    me = announce()
    members, _ = rendezvous.exchange(0, me)
    listener = listen(me, [member.node for member in members])
    ports, secret = rendezvous.exchange(1, listener.getsockname()[1])
    members = [Member(m.node, m.address, m.pid, port) for m, port in zip(members, ports, strict=True)]
    group = join(Peers(index, members, secret, listener))
    if index == 0:
        rendezvous.end()  # all have connected: nobody asks any more
    return group


def announce() -> Member:
    """Return this process as a member of a group: its node, address and process id."""
    node = ray.get_runtime_context().get_node_id()
    return Member(node, ray.util.get_node_ip_address(), os.getpid())


def join(peers: Peers) -> Group:
    """Make this process a member of a group, and end its membership in an earlier group."""
    _mark_children()
    _heed_threads()
    for former in _current:
        former.fail(InvalidArgumentError("it has joined another group"))
    group = Group(peers)
    _current[:] = [group]
    return group


def current_group() -> Group:
    """Return the group that this process has joined last."""
    return _current[-1]


@functools.cache
def _mark_children() -> None:
    """Mark every forked child as no replica, and close its connections, which must not outlive the replica."""

    def close() -> None:
        for group in _current:
            group.forget_connections()

    forked.mark_children(close)


@functools.cache
def _heed_threads() -> None:
    """Make an exception in any thread end this process's membership: Python would print it and go on."""
    otherwise = threading.excepthook

    def heed(args: threading.ExceptHookArgs) -> None:
        members = [group for group in _current if group.is_member]
        if not members or forked.in_child or args.exc_value is None or isinstance(args.exc_value, SystemExit):
            otherwise(args)
            return
        for group in members:
            group.fail_in_thread("?" if args.thread is None else args.thread.name, args.exc_value)

    threading.excepthook = heed
