"""The memory of variables: one flat buffer per dtype, and every variable a view into it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from distopt.memory.flat_buffer import FlatBuffer
from distopt.memory.storage import Storage


class HasStorage(Protocol):
    """The part of a variable that an arena needs."""

    storage: Storage


def allocate(variables: Iterable[HasStorage], *, shareable: bool = False) -> None:
    """Give variables that lie in no flat buffer yet one per dtype; the others stay where they are.

    Args:
        variables: each keeps its value; its memory becomes a view into the buffer.
        shareable: whether replicas of one node may come to share it.
    """
    without_buffer: dict[np.dtype[Any], dict[int, HasStorage]] = {}
    for variable in variables:
        if variable.storage.buffer is None:
            without_buffer.setdefault(variable.storage.array.dtype, {})[id(variable)] = variable
    for dtype, group in without_buffer.items():
        members = list(group.values())
        buffer = FlatBuffer([m.storage.array.size for m in members], dtype, shareable=shareable)
        for member, start in zip(members, buffer.starts, strict=True):
            array = member.storage.array
            member.storage.move_to(buffer.flat[start : start + array.size].reshape(array.shape), buffer, start)
