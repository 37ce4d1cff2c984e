"""Pieces: ranges of variables. Each replica writes some of them; together they are the whole state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, TypeAlias

import msgspec

from distopt.memory.layout import SPAN_UNIT

LIMIT = 2**62 - 1
"""Of elements and of bytes."""

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=LIMIT)]


class Piece(msgspec.Struct, frozen=True, order=True, array_like=True):
    """The elements [begin, end) of a flattened variable.

    Args:
        key: the variable's name in the checkpoint.
        begin: the first element.
        end: one more than the last element.
    """

    key: str
    begin: Count
    end: Count

    @property
    def name(self) -> str:
        """Return the name of the piece's tensor in a file."""
        return f"{self.key}[{self.begin}:{self.end}]"


def cut(sizes: Mapping[str, tuple[int, int]], replicas: int, index: int) -> list[Piece]:
    """Cut variables that all replicas have into equal parts of about the same size; return the pieces of one replica.

    Args:
        sizes: key -> (number of elements, bytes of one).
        replicas: how many replicas share the writing.
        index: the replica's index.

    Example:
        >>> cut({"w": (10_000, 4), "b": (10, 4)}, 2, 0), cut({"w": (10_000, 4), "b": (10, 4)}, 2, 1)
        ([Piece(key='w', begin=0, end=4096)], [Piece(key='w', begin=4096, end=10000), Piece(key='b', begin=0, end=10)])
    """
    total = sum(size * width for size, width in sizes.values())
    low, high = total * index // replicas, total * (index + 1) // replicas
    pieces, start = [], 0
    for key, (size, width) in sizes.items():
        begin, end = (_near((limit - start) // width, size) for limit in (low, high))
        if index == replicas - 1:
            end = size
        if begin < end:
            pieces.append(Piece(key, begin, end))
        start += size * width
    return pieces


def _near(element: int, size: int) -> int:
    """Return the position nearest to an element at which a variable may be cut; a small variable stays whole."""
    return min(size, max(0, (element + SPAN_UNIT // 2) // SPAN_UNIT * SPAN_UNIT))


def check_cover(sizes: Mapping[str, int], pieces: Iterable[Piece]) -> None:
    """Check that pieces hold every element of every variable once, and nothing else.

    Raises:
        ValueError: the pieces of a variable do not make it up; the message names the variable.

    Example:
        >>> check_cover({"w": 4}, [Piece("w", 2, 4), Piece("w", 0, 2)])
        >>> check_cover({"w": 4}, [Piece("w", 2, 4)])
        Traceback (most recent call last):
        ValueError: the pieces of 'w' do not make up its 4 elements: [(2, 4)]
    """
    found: dict[str, list[tuple[int, int]]] = {key: [] for key in sizes}
    for piece in pieces:
        if piece.key not in found:
            raise ValueError(f"there is a piece of {piece.key!r}, which is no variable of the checkpoint")
        found[piece.key].append((piece.begin, piece.end))
    for key, ranges in found.items():
        limits = [(0, 0), *sorted(ranges), (sizes[key], sizes[key])]
        if any(end != begin for (_, end), (begin, _) in pairwise(limits)) or any(b >= e for b, e in ranges):
            raise ValueError(f"the pieces of {key!r} do not make up its {sizes[key]} elements: {sorted(ranges)[:8]}")
