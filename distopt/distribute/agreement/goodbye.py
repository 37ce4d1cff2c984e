"""The end of a replica in the others' headers: it takes part in them, well or with its failure, until all have ended.

Whoever still makes a call gets an error from the header and comes to its own end, so that in the last round all say
how they end, and all know alike which failure came first.
"""

from __future__ import annotations

import time

from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import Kind, end_round
from distopt.errors import ReplicaFailedError
from distopt.process.trouble import describe


def say_goodbye(communicator: Communicator, patience: float | None = None) -> int | None:
    """Say in place of headers that this replica has ended well, until all have ended; some may go on for long.

    Args:
        communicator: the replicas.
        patience: how many seconds those who still made a call may take to end, once they know; None: any time.

    Returns:
        The replica whose failure came first; None where all have ended well.

    Raises:
        TimeoutError: some have made a call, and then did not end in time.
        ReplicaFailedError: another one has failed and meets nobody in a header.
    """
    return _first(_until_all_end(communicator, Kind.GOODBYE, "", None, patience))


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
        return _first(_until_all_end(communicator, kind, describe(error), deadline, None))
    except ReplicaFailedError as heard:
        return heard.replica_index
    except Exception:  # whatever keeps the replicas from agreeing on the end, it must come
        return None


def _until_all_end(
    communicator: Communicator, kind: Kind, text: str, deadline: float | None, patience: float | None
) -> list[Kind]:
    """Take part in headers until nobody makes a call any more; return what each replica brought to the last."""
    while True:
        kinds = end_round(communicator, kind, text, deadline)
        if Kind.CALL not in kinds:
            return kinds
        if deadline is None and patience is not None:
            deadline = time.monotonic() + patience


def _first(kinds: list[Kind]) -> int | None:
    """Return the lowest replica that raised, else the lowest that heard of a failure; None where all ended well."""
    for kind in (Kind.RAISED, Kind.CONSEQUENCE):
        if kind in kinds:
            return kinds.index(kind)
    return None
