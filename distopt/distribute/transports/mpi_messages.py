"""Messages of MPI: the order in which arrays travel, and the parts that they are cut into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from distopt.distribute.agreement.communicator import Array

MESSAGE_BYTES = 1 << 30
"""Longer arrays travel in several messages: counts above 2^31 are not safe in every MPI."""

Message: TypeAlias = tuple[Callable[..., Any], Array, int]
"""A function that makes a request, a part of an array, and the rank that it goes to or comes from."""

_Direction: TypeAlias = tuple[Callable[..., Any], Sequence[Array | None]]


def in_messages(incoming: _Direction, outgoing: _Direction, me: int) -> list[Message]:
    """Return the messages of an exchange, pair by pair.

    Args:
        incoming: a function that makes a request, and the array for what comes from each rank, or None.
        outgoing: the same for what goes to each.
        me: this rank.
    """
    (receive, receives), (send, sends) = incoming, outgoing
    size, messages = len(sends), list[Message]()
    # Each rank begins with another partner, so that they do not all queue at the same one.
    for k in range(1, size):
        source, target = (me - k) % size, (me + k) % size
        coming, going = receives[source], sends[target]
        if coming is not None:
            messages.extend((receive, part, source) for part in _parts(coming))
        if going is not None:
            messages.extend((send, part, target) for part in _parts(going))
    return messages


def _parts(array: Array) -> list[Array]:
    flat = array.view(np.uint8)
    if flat.size <= MESSAGE_BYTES:
        return [flat]
    return [flat[start : start + MESSAGE_BYTES] for start in range(0, flat.size, MESSAGE_BYTES)]
