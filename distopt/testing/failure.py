"""What every transport must do when a replica fails or ends: the others are told by whom, and soon; nobody hangs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.goodbye import say_goodbye
from distopt.distribute.agreement.header import Call, agree, telling_the_others
from distopt.distribute.node.node import Node
from distopt.errors import ReplicaError, ReplicaFailedError
from distopt.testing.replicas import Replicas

SOON = 5.0
"""Seconds after which a replica that waits has been told."""

_LATER = 0.3
"""Seconds after which the others wait already."""

_Make: TypeAlias = Callable[[Communicator], Callable[[], Any]]


class FailureConformance:
    """Tests of how a failure travels: each needs communicators of its own. The last replica is the one that fails.

    Besides the fixture ``replicas`` a subclass defines ``with_fresh_communicators(replicas, fn)``, as for
    ``DeadlineConformance``; these communicators share their ``watch`` with no others.
    """

    def with_fresh_communicators(self, replicas: Replicas, fn: Callable[[Communicator], Any]) -> list[Any]:
        """Call ``fn(communicator)`` on every replica."""
        raise NotImplementedError

    def test_an_error_before_a_header_is_told_in_it_and_all_go_on(self, replicas: Replicas) -> None:
        """An error of one replica's call is raised there, and named by the others; the next call goes well."""
        outcomes = self.with_fresh_communicators(replicas, _err_before_a_header)
        assert outcomes[-1] == "ValueError: boom"
        _assert_told(outcomes, "ReplicaFailedError", "ValueError: boom")

    def test_who_waits_in_a_header_is_told(self, replicas: Replicas) -> None:
        """A replica fails while the others wait for its record."""
        _assert_told(self._while_others(replicas, _meet, _fail_later), "ReplicaFailedError", "ValueError: boom")

    def test_who_waits_for_a_payload_is_told(self, replicas: Replicas) -> None:
        """A replica fails while the others wait for its array."""
        _assert_told(self._while_others(replicas, _receive, _fail_later), "ReplicaFailedError", "ValueError: boom")

    def test_who_waits_in_the_memory_of_a_node_is_told(self, replicas: Replicas) -> None:
        """A replica fails while the others of its node wait in a barrier, and those of other nodes in a header."""
        _assert_told(self._while_others(replicas, _meet_on_node, _fail_later), "ReplicaFailedError", "ValueError: boom")

    def test_who_comes_later_is_told(self, replicas: Replicas) -> None:
        """A replica has failed between two calls before the others come to the second."""
        _assert_told(self._while_others(replicas, _meet_later, _fail), "ReplicaFailedError", "ValueError: boom")

    def test_what_a_replica_was_told_is_passed_on(self, replicas: Replicas) -> None:
        """Who has only heard of a failure is not taken for the one that failed."""
        _assert_told(self._while_others(replicas, _meet, _pass_on), "ReplicaFailedError", "replica 71 failed", 71)

    def test_a_replica_may_fail_twice(self, replicas: Replicas) -> None:
        """The second time, when the others may have ended, nothing happens."""
        _assert_told(self._while_others(replicas, _meet, _fail_twice), "ReplicaFailedError", "ValueError: boom")

    def test_a_replica_that_ends_early_is_named(self, replicas: Replicas) -> None:
        """It says goodbye while the others make a call; when they say it too, all have ended well."""
        outcomes = self.with_fresh_communicators(replicas, _end_early)
        assert [first_failed for _, first_failed in outcomes] == [None] * replicas.count
        _assert_told([told for told, _ in outcomes], "ReplicaLeftError", f"replica {replicas.count - 1} of", None)

    def _while_others(self, replicas: Replicas, make_wait: _Make, end: Callable[[Communicator], None]) -> list[Any]:
        return self.with_fresh_communicators(replicas, partial(_end_while_others_wait, make_wait=make_wait, end=end))


class _Told(NamedTuple):
    """What a replica was told while it waited."""

    kind: str
    replica_index: int | None
    text: str
    seconds: float


def _assert_told(outcomes: Sequence[Any], kind: str, says: str, names: int | None = -1) -> None:
    """All replicas but the last were told the same, in time.

    Args:
        outcomes: of all replicas.
        kind: of the errors.
        says: what their texts contain.
        names: the replica that they name; -1 for the last one.
    """
    named = len(outcomes) - 1 if names == -1 else names
    for told in outcomes[:-1]:
        assert (told.kind, told.replica_index) == (kind, named), told
        assert says in told.text
        assert told.seconds < SOON


def _told(wait: Callable[[], Any]) -> _Told | None:
    began = time.monotonic()
    try:
        wait()
    except ReplicaError as error:
        index = getattr(error, "replica_index", None)
        return _Told(type(error).__name__, index, str(error), time.monotonic() - began)
    return None


def _is_last(communicator: Communicator) -> bool:
    return communicator.index == communicator.size - 1


def _end_while_others_wait(communicator: Communicator, make_wait: _Make, end: Callable[[Communicator], None]) -> Any:
    communicator.line()
    wait = make_wait(communicator)
    return end(communicator) if _is_last(communicator) else _told(wait)


def _meet(communicator: Communicator) -> Callable[[], Any]:
    return partial(agree, communicator, Call("barrier"))


def _meet_later(communicator: Communicator) -> Callable[[], Any]:
    def wait() -> None:
        time.sleep(_LATER)
        agree(communicator, Call("barrier"))

    return wait


def _receive(communicator: Communicator) -> Callable[[], Any]:
    sent = [np.ones(1000)] * communicator.size
    return communicator.prepare(sent, [np.zeros(1000) for _ in sent])


def _meet_on_node(communicator: Communicator) -> Callable[[], Any]:
    barrier = Node(communicator).barrier if communicator.size > 1 else None

    def wait() -> None:
        if barrier is not None:
            barrier()
        agree(communicator, Call("barrier"))

    return wait


def _fail(communicator: Communicator) -> None:
    communicator.fail(ValueError("boom"))


def _fail_later(communicator: Communicator) -> None:
    time.sleep(_LATER)
    _fail(communicator)


def _fail_twice(communicator: Communicator) -> None:
    _fail(communicator)
    _fail_later(communicator)


def _pass_on(communicator: Communicator) -> None:
    communicator.fail(ReplicaFailedError("replica 71 failed: ValueError: boom", 71))


def _err_before_a_header(communicator: Communicator) -> Any:
    def err() -> None:
        with telling_the_others(communicator):
            raise ValueError("boom")

    outcome: Any = None
    if _is_last(communicator):
        try:
            err()
        except ValueError as error:
            outcome = f"ValueError: {error}"
    else:
        outcome = _told(_meet(communicator))
    _meet(communicator)()
    return outcome


def _end_early(communicator: Communicator) -> tuple[_Told | None, int | None]:
    told = None if _is_last(communicator) else _told(_meet(communicator))
    return told, say_goodbye(communicator)
