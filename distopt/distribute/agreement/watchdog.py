"""The watchdog: it names the replicas that are late, and what they were doing.

A replica that waits looks at the clock while it waits. After ``Deadlines.warn`` it asks the others, who answer from a
thread of their own (``StatusChannel``): those who have made fewer calls, or wait for nobody, or do not answer, are
missing. One replica then names them and writes everybody's stacks into a file. After the long deadlines waiting ends in
an error: soon where a missing replica is dead or stopped, late where it may be busy.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from distopt.distribute.agreement.checks import Deadlines
from distopt.errors import CollectiveMismatchError, StalledError
from distopt.former_names import FormerName
from distopt.process.launcher_watch import check_launcher
from distopt.process.stack_files import keep_stacks, write_stacks
from distopt.process.unresponsive import Unresponsive
from distopt.process.whereabouts import stacks, user_line_of
from distopt.speaking import say

ASK_SECONDS = 1.0
"""Seconds that an answer may take."""

_ASK_AGAIN_SECONDS = 1.0

_CHECK_AGAIN_SECONDS = 0.25

_ON_ITS_WAY_SECONDS = 0.5
"""Seconds that a message may take to arrive which a replica has sent before it left a call."""

_FIRST_SECONDS = 2.0
"""Seconds that all but one of those who wait do so longer: one error says it all."""

_WARNING = 2
"""So many replicas warn of one that nobody has met: one of them may be the one."""

ANY_CALL = -1
"""The number of the call that a replica has left which makes no call any more."""

_RESTART = "Start the job again from its last checkpoint"
_LONGER = (
    "Every replica must make the same calls. What one replica alone does (evaluation, a download) may need longer: "
    "Strategy(deadlines=distopt.Deadlines(end=...)), or DISTOPT_DEADLINES in the environment, sets the limit"
)


@dataclass
class Status:
    """The present activity of a replica."""

    calls: int
    """The number of collective calls that the replica has begun."""
    call: str
    """The last of them."""
    waiting: bool
    """True where the replica waits for others."""
    source_line: str
    """The line of the user's code that the main thread is at."""
    stacks: str
    """Of all its threads."""
    number: int = 0
    """The number of the communicator that the call goes to, among several of the same replicas."""


class StatusChannel(Protocol):
    """A channel on which a replica asks the others what they are doing, however busy they are."""

    @property
    def neighbours(self) -> Sequence[int]:
        """The other replicas whose processes can be seen from here."""

    def ask(self, seconds: float) -> list[Status | None]:
        """Return every replica's status, None where there was no answer."""

    def explain_silence(self, replica: int) -> Unresponsive:
        """Say what can be seen from here of a replica that does not answer."""

    def announce_left(self, call: int, error: BaseException) -> None:
        """Tell the others that this replica has left its n-th call in the middle; never raises, waits for nobody."""


class _Left(NamedTuple):
    """A note on a replica that has left a call in the middle."""

    call: int
    error: Exception
    heard: float


class Watchdog:
    """The record of what one replica does, for others who ask; and its patience with them.

    Args:
        index: the replica's.
        channel: how it asks the others; None where that is not known before all have met.
    """

    def __init__(self, index: int, channel: StatusChannel | None = None) -> None:
        self.index = index
        self.calls = 0
        self.call, self.step, self.number = "", -1, 0
        self.thread = threading.get_ident()
        self._waiting: dict[int, float] = {}
        """The time at which each waiting thread began to: a communication thread waits beside the replica's own."""
        self.waited, self.headers = 0.0, 0
        """Seconds waited in headers, and how many there were."""
        self._call_start = 0.0
        self.status_channel = channel
        self.lost: Exception | None = None
        """The error that whoever waits here raises: another replica has failed or died."""
        self._left: dict[int, _Left] = {}
        self._deadlines: Deadlines | None = None
        self._next_question = math.inf
        self._has_warned = False
        self._has_ended = False
        self._at_rest: dict[int, float] = {}
        """The time since which each replica is at rest, once this one has ended."""
        self._waits: tuple[int, ...] = ()
        """The calls and places that were seen when all replicas waited."""

    def begin(self, deadlines: Deadlines, channel: StatusChannel | None = None) -> None:
        """Look at the clock from now on."""
        self._deadlines, self.thread = deadlines, threading.get_ident()
        self.status_channel = channel or self.status_channel

    def end(self) -> None:
        """Wait for all that run without limit from now on: the script is over, and others may go on for long."""
        self._has_ended = True

    def call_started(self, call: str, step: int, number: int | None = None) -> None:
        """Note that a collective call begins.

        Args:
            call: its name.
            step: the step that it belongs to, or -1.
            number: that of the communicator; None where the replica has ended, and is on all of them.
        """
        self.call, self.step, self.number = call, step, ANY_CALL if number is None else number
        self.calls += 1
        self._call_start = time.perf_counter()

    def header_completed(self) -> None:
        """Note that the header of the call is there: all replicas have come to it."""
        self.waited += time.perf_counter() - self._call_start
        self.headers += 1

    def note_left(self, replica: int, call: int, error: Exception) -> None:
        """Note that another replica has left its n-th call in the middle: its part of it never comes.

        Args:
            replica: who.
            call: the number of the call.
            error: what whoever waits for that part raises.
        """
        self._left[replica] = _Left(call, error, time.monotonic())

    def why_left(self, replica: int) -> Exception | None:
        """Return the error of a replica that has left the present call in the middle; None where it has not."""
        left = self._left.get(replica)
        return left.error if left is not None and left.call in (self.calls, ANY_CALL) else None

    @property
    def waiting_since(self) -> float:
        """Return the time at which this replica began to wait for others; 0 where it does not wait."""
        return min(self._waiting.values(), default=0.0)

    def wait_started(self, now: float) -> None:
        """Note that this replica waits for others."""
        self._waiting[threading.get_ident()] = now
        self._next_question = math.inf if self._deadlines is None else now + self._deadlines.warn
        self._has_warned = False

    def wait_ended(self) -> None:
        """Note that this replica waits no more."""
        self._waiting.pop(threading.get_ident(), None)

    def check(self, now: float, awaited: Collection[int] = ()) -> float:
        """See whether it is time to do something; while a replica waits it calls this often.

        Args:
            now: the time.
            awaited: the replicas whose part of a payload, or whose coming to a node's barrier, is missing; empty in a
                header, to which those come too that have left a call.

        Returns:
            When to check again.

        Raises:
            StalledError: a long deadline has passed.
            ReplicaError: ``lost``.
        """
        self.lost = self.lost or self._in_vain(now, awaited)
        if self.lost is not None:
            raise self.lost
        check_launcher()
        if now >= self._next_question and self._deadlines is not None:
            if self._has_ended:
                self._look_for_rest(self._deadlines)
            elif self.status_channel is None:
                self._wait_for_strangers(self._deadlines)
            else:
                self._ask(self.status_channel, self._deadlines)
            self._next_question = time.monotonic() + min(_ASK_AGAIN_SECONDS, self._deadlines.warn)
        return min(self._next_question, now + _CHECK_AGAIN_SECONDS)

    begin_wait, look, end_wait = FormerName("wait_started"), FormerName("check"), FormerName("wait_ended")

    def status(self) -> Status:
        """Return what this replica is doing."""
        call = f"{self.call} (step {self.step})" if self.step >= 0 else self.call
        return Status(self.calls, call, self.waiting_since > 0, user_line_of(self.thread), stacks(), self.number)

    def _in_vain(self, now: float, awaited: Collection[int]) -> Exception | None:
        """Return why one of the awaited replicas never comes to this call; None where all may come."""
        if not self._left:
            return None
        since = self._waiting.get(threading.get_ident(), now)
        for replica in self._left.keys() & awaited:
            if now > max(since, self._left[replica].heard) + _ON_ITS_WAY_SECONDS:
                return self.why_left(replica)
        return None

    def _wait_for_strangers(self, deadlines: Deadlines) -> None:
        waited = time.monotonic() - self.waiting_since
        text = (
            f"replica {self.index} has waited {waited:.0f} s in its first collective call, at "
            f"{user_line_of(self.thread)}, for a replica that has made none (which, is not known before all have met)"
        )
        if not self._has_warned and self.index < _WARNING:
            say(f"\ndistopt: {text}")
        self._has_warned = True
        if waited >= deadlines.end:
            raise StalledError(f"{text}. That is longer than {deadlines.end:g} s. {_LONGER}", [])

    def _look_for_rest(self, deadlines: Deadlines) -> None:
        """Give up if a replica never comes to its end: nobody answers questions there any more."""
        channel, now = self.status_channel, time.monotonic()
        seen = {} if channel is None else {r: channel.explain_silence(r) for r in channel.neighbours}
        self._at_rest = {r: self._at_rest.get(r, now) for r, each in seen.items() if not each.may_end}
        for replica, since in self._at_rest.items():
            if now - since >= deadlines.silent:
                raise StalledError(
                    f"replica {self.index} has ended and waits for {_describe(replica, seen[replica])}. That is longer "
                    f"than {deadlines.silent:g} s. {_RESTART}",
                    [replica],
                )

    def _refuse_crossing(self, statuses: Sequence[Status | None]) -> None:
        """Raise where all replicas wait, and have done so before, but among the replicas of different strategies."""
        numbers = [status.number for status in statuses if status is not None]
        before, self._waits = self._waits, (self.calls, *numbers)
        if before == self._waits and len(set(numbers)) > 1 and ANY_CALL not in numbers:
            raise CollectiveMismatchError(
                "all replicas wait for each other, in different strategies: "
                f"{'; '.join(map(_where, range(len(statuses)), statuses))}. Every replica must enter the same scopes"
            )

    def _ask(self, channel: StatusChannel, deadlines: Deadlines) -> None:
        me = threading.get_ident()
        since = self._waiting.get(me)
        statuses = channel.ask(ASK_SECONDS)
        if since is None or self._waiting.get(me) != since:
            return
        mine = self.status()
        missing = [
            r
            for r, s in enumerate(statuses)
            if r != self.index and (s is None or s.calls < mine.calls or (s.calls == mine.calls and not s.waiting))
        ]
        if not missing:
            self._refuse_crossing(statuses)
        waited = time.monotonic() - since
        seen = [statuses[r] or channel.explain_silence(r) for r in missing]
        who = "; ".join(map(_describe, missing, seen)) or "nobody in particular: all replicas wait"
        text = f"replica {self.index} has waited {waited:.0f} s in {mine.call} at {mine.source_line} for {who}"
        is_first = self.index == min(set(range(len(statuses))) - set(missing))
        if missing and is_first and not self._has_warned:
            written = write_stacks([text, *map(_stacks_of, range(len(statuses)), statuses)])
            say(f"\ndistopt: {text}. {written}")
        self._has_warned = True
        is_over = any(isinstance(each, Unresponsive) and not each.may_end for each in seen)
        limit = deadlines.silent if is_over else deadlines.end
        if waited >= limit + (0 if is_first else _FIRST_SECONDS):
            cure = _RESTART if is_over else _LONGER
            keep_stacks()
            raise StalledError(f"{text}. That is longer than {limit:g} s. {cure}", missing)


def _where(replica: int, status: Status | None) -> str:
    assert status is not None
    return f"replica {replica} in {status.call} at {status.source_line}"


def _stacks_of(replica: int, status: Status | None) -> str:
    text = "no answer" if status is None else f"last call {status.call}, at {status.source_line}\n{status.stacks}"
    return f"==== replica {replica}: {text}"


def _describe(replica: int, status: Status | Unresponsive) -> str:
    if isinstance(status, Unresponsive):
        return f"replica {replica}, which {status.reason}"
    last = f"its last call was {status.call}" if status.call else "it has made no call yet"
    return f"replica {replica} ({last}; it is at {status.source_line})"
