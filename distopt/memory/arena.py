"""Placing variables: one flat buffer per dtype, and every variable a view into it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from distopt.memory.flat_buffer import FlatBuffer
from distopt.memory.storage import Storage


class Placeable(Protocol):
    """What an arena needs of a variable."""

    storage: Storage


def place(variables: Iterable[Placeable], *, shareable: bool = False) -> None:
    """Give variables that have no place yet one flat buffer per dtype; the others stay where they are.

    Args:
        variables: each keeps its value; its memory becomes a view into the buffer.
        shareable: whether replicas of one node may come to share it.
    """
    homeless: dict[np.dtype[Any], dict[int, Placeable]] = {}
    for variable in variables:
        if variable.storage.home is None:
            homeless.setdefault(variable.storage.array.dtype, {})[id(variable)] = variable
    for dtype, group in homeless.items():
        members = list(group.values())
        home = FlatBuffer([m.storage.array.size for m in members], dtype, shareable=shareable)
        for member, start in zip(members, home.starts, strict=True):
            array = member.storage.array
            member.storage.move_to(home.flat[start : start + array.size].reshape(array.shape), home, start)
