"""What a replica that has failed tells the others outside of headers: text, which becomes their error."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from distopt.errors import ReplicaError, ReplicaFailedError, ReplicaLostError


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
    text = "".join(traceback.format_exception_only(error)).strip()  # with its notes, which may hold a traceback
    return {"failed": f"replica {replica} failed: {text}", "replica": replica}


def as_error(word: Mapping[str, Any]) -> ReplicaError:
    """Return what those who hear it raise.

    Example:
        >>> as_error(last_word(1, ValueError("boom")))
        ReplicaFailedError('replica 1 failed: ValueError: boom')
    """
    return ReplicaLostError(word["lost"]) if "lost" in word else ReplicaFailedError(word["failed"], word["replica"])
