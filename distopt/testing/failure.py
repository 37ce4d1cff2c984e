"""Tests of transports when a replica fails or ends: the others soon hear which replica it is, and nobody hangs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from distopt.constraints import Constraint
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.goodbye import say_goodbye
from distopt.distribute.agreement.header import Call, agree, exchange_bytes, telling_the_others
from distopt.distribute.node.node import Node
from distopt.distribute.strategy import Strategy
from distopt.errors import ReplicaError, ReplicaFailedError
from distopt.optimizers import SGD
from distopt.testing.replicas import Replicas
from distopt.variables.variable import Variable

SOON = 5.0
"""Seconds within which a waiting replica must be told of a failure."""

_LATER = 0.3
"""Seconds after which the other replicas surely wait."""

_Make: TypeAlias = Callable[[Communicator], Callable[[], Any]]


class FailureConformance:
    """Tests of how a failure travels; each test needs communicators of its own. The last replica is the one that fails.

    Besides the fixture ``replicas`` a subclass defines ``with_fresh_communicators(replicas, fn)``, as for
    ``DeadlineConformance``; these communicators share their ``watchdog`` with no others.
    """

    def with_fresh_communicators(self, replicas: Replicas, fn: Callable[[Communicator], Any]) -> list[Any]:
        """Call ``fn(communicator)`` on every replica."""
        raise NotImplementedError

    def test_an_error_before_a_header_is_told_in_it_and_all_go_on(self, replicas: Replicas) -> None:
        """Check that an error of one replica is raised there, and named by the others; the next call goes well."""
        outcomes = self.with_fresh_communicators(replicas, _err_before_a_header)
        assert outcomes[-1] == "ValueError: boom"
        _assert_raised(outcomes, "ReplicaFailedError", "ValueError: boom")

    def test_who_waits_in_a_header_is_told(self, replicas: Replicas) -> None:
        """Let a replica fail while the others wait for its record."""
        _assert_raised(self._while_others(replicas, _agree, _fail_later), "ReplicaFailedError", "ValueError: boom")

    def test_who_waits_for_a_payload_is_told(self, replicas: Replicas) -> None:
        """Let a replica fail while the others wait for its array."""
        _assert_raised(self._while_others(replicas, _receive, _fail_later), "ReplicaFailedError", "ValueError: boom")

    def test_who_waits_in_the_memory_of_a_node_is_told(self, replicas: Replicas) -> None:
        """Let a replica fail while the others of its node wait in a barrier, and those of other nodes in a header."""
        _assert_raised(
            self._while_others(replicas, _agree_after_barrier, _fail_later), "ReplicaFailedError", "ValueError: boom"
        )

    def test_who_comes_later_is_told(self, replicas: Replicas) -> None:
        """Let a replica fail between two calls, before the others come to the second."""
        _assert_raised(self._while_others(replicas, _agree_later, _fail), "ReplicaFailedError", "ValueError: boom")

    def test_what_a_replica_was_told_is_passed_on(self, replicas: Replicas) -> None:
        """Check that a replica that has only heard of a failure is not taken for the one that failed."""
        _assert_raised(self._while_others(replicas, _agree, _pass_on), "ReplicaFailedError", "replica 71 failed", 71)

    def test_a_replica_may_fail_twice(self, replicas: Replicas) -> None:
        """Check that a second failure, when the others may have ended, does nothing."""
        _assert_raised(self._while_others(replicas, _agree, _fail_twice), "ReplicaFailedError", "ValueError: boom")

    def test_who_waits_for_a_payload_of_a_call_that_was_left_is_told(self, replicas: Replicas) -> None:
        """Let a replica leave a call in the middle: in the next header it learns that the others have given up."""
        _assert_given_up(self.with_fresh_communicators(replicas, partial(_leave_a_call, make_wait=_receive)))

    def test_who_waits_on_a_node_in_a_call_that_was_left_is_told(self, replicas: Replicas) -> None:
        """Let a replica leave a call in which its node waits in memory, and other nodes wait in the next header."""
        _assert_given_up(self.with_fresh_communicators(replicas, partial(_leave_a_call, make_wait=_barrier_of_node)))

    def test_who_exchanges_bytes_in_a_call_that_was_left_is_told(self, replicas: Replicas) -> None:
        """Check that a header is not taken for bytes that others exchange in the middle of a call; all can go on."""
        for outcome in self.with_fresh_communicators(replicas, _leave_an_exchange) if replicas.count > 1 else ():
            assert outcome.kind == "ReplicaFailedError", outcome
            assert outcome.seconds < SOON

    def test_a_call_that_all_have_left_is_forgotten(self, replicas: Replicas) -> None:
        """Let every replica fail in the same way: nobody waits, and all meet in the next header."""
        assert self.with_fresh_communicators(replicas, _leave_together) == [None] * replicas.count

    def test_a_step_that_fails_on_one_replica_leaves_nobody_waiting(self, replicas: Replicas) -> None:
        """Let a constraint raise on one replica, whose program catches the error and steps again."""
        *others, (first, second, seconds) = self.with_fresh_communicators(replicas, _fail_in_a_step)
        assert (first, second) in (("ValueError", "DamagedOptimizerError"), ("ValueError", "DeadCommunicatorError"))
        assert seconds < SOON
        for first, second, seconds in others:
            assert "ReplicaFailedError" in (first, second)
            assert seconds < SOON

    def test_a_replica_that_ends_early_is_named(self, replicas: Replicas) -> None:
        """Let a replica say goodbye while the others make a call; once all have said goodbye, all have ended well."""
        outcomes = self.with_fresh_communicators(replicas, _end_early)
        assert [first_failed for _, first_failed in outcomes] == [None] * replicas.count
        _assert_raised(
            [outcome for outcome, _ in outcomes], "ReplicaLeftError", f"replica {replicas.count - 1} of", None
        )

    def _while_others(self, replicas: Replicas, make_wait: _Make, end: Callable[[Communicator], None]) -> list[Any]:
        return self.with_fresh_communicators(replicas, partial(_end_while_others_wait, make_wait=make_wait, end=end))


class _Outcome(NamedTuple):
    """The error that a replica was told while it waited."""

    kind: str
    replica_index: int | None
    text: str
    seconds: float


class _LeftCall(NamedTuple):
    """The errors of one replica in, and after, a call that the last replica has left in the middle."""

    waits: bool
    in_call: _Outcome | None
    later: _Outcome | None


def _assert_raised(outcomes: Sequence[Any], kind: str, says: str, names: int | None = -1) -> None:
    """Check that all replicas but the last were told the same error, in time.

    Args:
        outcomes: the outcomes of all replicas.
        kind: the class of the errors.
        says: a part of their texts.
        names: the index of the replica that they name; -1 for the last one.
    """
    named = len(outcomes) - 1 if names == -1 else names
    for outcome in outcomes[:-1]:
        assert (outcome.kind, outcome.replica_index) == (kind, named), outcome
        assert says in outcome.text
        assert outcome.seconds < SOON


def _assert_given_up(outcomes: Sequence[_LeftCall]) -> None:
    """Check that those who waited for the last replica were outcome in the call, and all others in the next header."""
    last = len(outcomes) - 1
    is_over = any(outcome.in_call is not None for outcome in outcomes)
    for replica, (waits, in_call, later) in enumerate(outcomes):
        assert (in_call is not None) == (waits and replica != last), in_call
        assert (later is not None) == is_over, later
        for outcome in (in_call, later if in_call is None else None):
            if outcome is not None:
                is_own = replica == last
                assert outcome.kind == ("DeadCommunicatorError" if is_own else "ReplicaFailedError"), outcome
                assert outcome.replica_index == (None if is_own else last)
                assert "ValueError: boom" in outcome.text
                assert outcome.seconds < SOON


def _outcome_of(wait: Callable[[], Any]) -> _Outcome | None:
    began = time.monotonic()
    try:
        wait()
    except ReplicaError as error:
        index = getattr(error, "replica_index", None)
        return _Outcome(type(error).__name__, index, str(error), time.monotonic() - began)
    return None


def _is_last(communicator: Communicator) -> bool:
    return communicator.index == communicator.size - 1


def _end_while_others_wait(communicator: Communicator, make_wait: _Make, end: Callable[[Communicator], None]) -> Any:
    communicator.status_channel()
    wait = make_wait(communicator)
    return end(communicator) if _is_last(communicator) else _outcome_of(wait)


def _agree(communicator: Communicator) -> Callable[[], Any]:
    return partial(agree, communicator, Call("barrier"))


def _agree_later(communicator: Communicator) -> Callable[[], Any]:
    def wait() -> None:
        time.sleep(_LATER)
        agree(communicator, Call("barrier"))

    return wait


def _receive(communicator: Communicator) -> Callable[[], Any]:
    sent = [np.ones(1000)] * communicator.size
    return communicator.prepare(sent, [np.zeros(1000) for _ in sent])


def _agree_after_barrier(communicator: Communicator) -> Callable[[], Any]:
    barrier = Node(communicator).barrier if communicator.size > 1 else None

    def wait() -> None:
        if barrier is not None:
            barrier()
        agree(communicator, Call("barrier"))

    return wait


def _barrier_of_node(communicator: Communicator) -> Callable[[], Any]:
    return Node(communicator).barrier if communicator.size > 1 else _nothing


def _nothing() -> None: ...


def _leave_a_call(communicator: Communicator, make_wait: _Make) -> _LeftCall:
    communicator.status_channel()
    wait = make_wait(communicator)
    agree(communicator, Call("step"))
    in_call = None if _is_last(communicator) else _outcome_of(wait)
    if _is_last(communicator) or in_call is not None:
        communicator.break_off(ValueError("boom"))
    waits = make_wait is _receive or communicator.nodes[communicator.index] == communicator.nodes[-1]
    return _LeftCall(waits, in_call, _outcome_of(_agree(communicator)))


def _leave_an_exchange(communicator: Communicator) -> _Outcome | None:
    communicator.status_channel()
    agree(communicator, Call("step"))
    if _is_last(communicator):
        communicator.break_off(ValueError("boom"))
        outcome = _outcome_of(_agree(communicator))
    else:
        outcome = _outcome_of(partial(exchange_bytes, communicator, b"in the middle"))
        communicator.break_off(ReplicaError("it has met a header"))
    _agree(communicator)()
    return outcome


def _leave_together(communicator: Communicator) -> _Outcome | None:
    communicator.status_channel()
    agree(communicator, Call("step"))
    communicator.break_off(ValueError("boom"))
    if _is_last(communicator):
        time.sleep(_LATER)
    return _outcome_of(_agree(communicator))


class _Fails(Constraint):
    """A constraint that fails from the second step on, on the last replica."""

    def __init__(self, communicator: Communicator) -> None:
        self._steps_left = 1 if _is_last(communicator) else math.inf

    def __call__(self, value: Any) -> Any:
        if not self._steps_left:
            raise ValueError("boom")
        self._steps_left -= 1
        return value


def _fail_in_a_step(communicator: Communicator) -> tuple[str, str, float]:
    with Strategy(communicator).scope():
        variable, optimizer = Variable(np.zeros(3), constraint=_Fails(communicator)), SGD()
        step = partial(optimizer.apply_gradients, [(np.ones(3), variable)])
        step()
        began = time.monotonic()
        return _outcome(step), _outcome(step), time.monotonic() - began


def _outcome(step: Callable[[], Any]) -> str:
    try:
        step()
    except Exception as error:
        return type(error).__name__
    return "done"


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
        outcome = _outcome_of(_agree(communicator))
    _agree(communicator)()
    return outcome


def _end_early(communicator: Communicator) -> tuple[_Outcome | None, int | None]:
    outcome = None if _is_last(communicator) else _outcome_of(_agree(communicator))
    return outcome, say_goodbye(communicator)
