"""The last word of a failed replica to the others, outside of headers: text, which becomes their error."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from distopt.errors import DeadCommunicatorError, ReplicaError, ReplicaFailedError, ReplicaLostError
from distopt.process.trouble import describe


def last_word(replica: int, error: BaseException) -> dict[str, Any]:
    """Return what a replica says when it ends by an error; what it was told of another one it passes on as it is.

    Example:
        >>> last_word(1, ValueError("boom"))
        {'failed': 'replica 1 failed: ValueError: boom', 'replica': 1}
    """
    if isinstance(error, ReplicaLostError):
        return {"lost": str(error)}
    if isinstance(error, ReplicaFailedError):
        return {"failed": str(error), "replica": error.replica_index}
    try:
        text = "".join(traceback.format_exception_only(error)).strip()  # with its notes, which may hold a traceback
    except Exception:  # its class may be the user's
        text = describe(error)
    return {"failed": f"replica {replica} failed: {text}", "replica": replica}


def as_error(word: Mapping[str, Any], listener: int) -> ReplicaError:
    """Return what a replica that hears it raises; it may hear of its own failure, from those who waited for it.

    Example:
        >>> as_error(last_word(1, ValueError("boom")), 0)
        ReplicaFailedError('replica 1 failed: ValueError: boom')
    """
    if "lost" in word:
        return ReplicaLostError(word["lost"])
    if word["replica"] == listener:
        return given_up(word["failed"])
    return ReplicaFailedError(word["failed"], word["replica"])


def given_up(failed: str) -> DeadCommunicatorError:
    """Return what a replica raises that left a step in the middle, when the others have waited for it in vain.

    Args:
        failed: its failure, as the others tell it.
    """
    return DeadCommunicatorError(
        f"the other replicas have given up: they waited for the part of this one, which had left a step in the middle "
        f"({failed}). Start the job again from its last checkpoint"
    )
