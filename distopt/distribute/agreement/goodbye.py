"""The end of a replica in the others' headers: it takes part in them, well or with its failure, until all have ended.

Whoever still makes a call gets an error from the header and comes to its own end, so that in the last round all say
how they end, and all know alike which failure came first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import Kind, end_round, goodbye_round
from distopt.errors import ReplicaFailedError
from distopt.process.trouble import describe

_NAPS = 1e-4, 5e-3
"""The shortest and the longest sleep of a replica that has ended, seconds."""

_CHECK_AGAIN_SECONDS = 0.25


def say_goodbye(*communicators: Communicator, patience: float | None = None) -> int | None:
    """Say in place of headers that this replica has ended well, until all have ended; some may go on for long.

    It is said on all communicators at once: another replica may still make a call on any of them.

    Args:
        *communicators: the replicas.
        patience: how many seconds those who still made a call may take to end, once they know; None: any time.

    Returns:
        The replica whose failure came first; None where all have ended well.

    Raises:
        TimeoutError: some have made a call, and then did not end in time.
        ReplicaFailedError: another one has failed and meets nobody in a header.
    """
    rounds = {communicator: goodbye_round(communicator) for communicator in communicators}
    try:
        return _until_all_end(rounds, patience)
    except BaseException:  # Ctrl-C, say: what has been said can't be taken back, and the next header is none of theirs
        for communicator in rounds:
            communicator.abandon()
        raise


def _until_all_end(rounds: dict[Communicator, Iterator[list[Kind] | None]], patience: float | None) -> int | None:
    """Take part in the rounds, and drop each that is over; return as ``say_goodbye`` does."""
    deadline, next_check, nap = None, 0.0, _NAPS[0]
    while rounds:
        now = time.monotonic()
        for communicator, round_ in list(rounds.items()):
            kinds = next(round_)
            if kinds is None:
                if now >= next_check:
                    _wait(communicator, now)
                continue
            communicator.watchdog.wait_ended()
            nap = _NAPS[0]
            if Kind.CALL in kinds:
                deadline = deadline or (None if patience is None else now + patience)
                rounds[communicator] = goodbye_round(communicator, deadline)
                continue
            del rounds[communicator]
            if (first := _first(kinds)) is not None:
                return first
        if deadline is not None and now > deadline:
            raise TimeoutError("some replicas made a call after this one had ended, and did not end")
        next_check = next_check if now < next_check else now + _CHECK_AGAIN_SECONDS
        time.sleep(nap)
        nap = min(2 * nap, _NAPS[1])
    return None


def _wait(communicator: Communicator, now: float) -> None:
    watchdog = communicator.watchdog
    if watchdog.waiting_since:
        communicator.say_ended()  # it takes longer: who begins something new now would wait in vain
    else:
        watchdog.wait_started(now)
    watchdog.check(now)


def announce_failure(
    communicator: Communicator, error: BaseException, deadline: float, *, is_consequence: bool = False
) -> int | None:
    """Offer a failure in place of headers until all have ended. Never raises.

    Args:
        communicator: the replicas.
        error: why this one ends.
        deadline: ``time.monotonic()`` time until which the others may come to a header.
        is_consequence: whether it ends because of another's failure.

    Returns:
        The replica whose failure came first; None where the replicas can't agree on that any more.
    """
    kind = Kind.CONSEQUENCE if is_consequence else Kind.RAISED
    try:
        while True:
            kinds = end_round(communicator, kind, describe(error), deadline)
            if Kind.CALL not in kinds:
                return _first(kinds)
    except ReplicaFailedError as heard:
        return heard.replica_index
    except Exception:  # whatever keeps the replicas from agreeing on the end, it must come
        return None


def _first(kinds: list[Kind]) -> int | None:
    """Return the lowest replica that raised, else the lowest that heard of a failure; None where all ended well."""
    for kind in (Kind.RAISED, Kind.CONSEQUENCE):
        if kind in kinds:
            return kinds.index(kind)
    return None
