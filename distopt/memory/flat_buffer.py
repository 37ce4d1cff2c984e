"""Flat buffers: many variables in one piece of memory, and who owns which part of it.

A kernel gets the buffer and a table of spans, so that two hundred small variables are one call.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from distopt.arrays import Array
from distopt.memory.layout import SPAN_UNIT, flat_memory, layout
from distopt.memory.segment import Segment

CHUNK = 1 << 20
"""Elements, about: each owner has a part of every chunk, so that what comes together is summed by all of them."""


class SharedBy(Protocol):
    """The replicas that share a buffer: what a variable needs to be written."""

    @property
    def node(self) -> object:
        """The node whose replicas they are."""

    def write(self, name: str, target: Array, value: Array) -> None:
        """Give all replicas of the job a new value (collective)."""


class FlatBuffer:
    """One flat buffer of an arena.

    Args:
        sizes: the sizes of the arrays in it.
        dtype: their dtype.
        shareable: whether replicas of one node may come to share it.
    """

    def __init__(self, sizes: Sequence[int], dtype: np.dtype[Any], *, shareable: bool) -> None:
        self.sizes = list(sizes)
        self.starts, self.length = layout(self.sizes, dtype.itemsize)
        self.shareable = shareable
        self.flat, self.segment = flat_memory(self.length, dtype, 0 if shareable else None)
        self.shared_by: SharedBy | None = None
        """Set while the memory is that of all replicas of the node."""
        self.owned_ranges: list[tuple[int, int]] | None = None
        """The ranges that this replica updates, where the memory is shared."""

    def parallel(self, number: int, dtype: np.dtype[Any]) -> tuple[Array, Segment | None]:
        """Return a buffer of the same layout, for slots: the number-th of them (from 0)."""
        return flat_memory(self.length, dtype, number + 1 if self.shareable else None)

    def share(self, shared_by: SharedBy, owned_ranges: list[tuple[int, int]]) -> None:
        """Note that the memory is now that of several replicas.

        Args:
            shared_by: who they are.
            owned_ranges: the ranges that this replica updates.
        """
        self.shared_by, self.owned_ranges = shared_by, owned_ranges

    def parts(self, start: int, size: int) -> list[tuple[int, int]]:
        """Return the ranges of [start, start + size) that this replica updates."""
        if self.owned_ranges is None:
            return [(start, start + size)]
        ranges = ((max(begin, start), min(end, start + size)) for begin, end in self.owned_ranges)
        return [(begin, end) for begin, end in ranges if begin < end]

    def split_among(self, replicas: int) -> list[list[tuple[int, int]]]:
        """Return the ranges of every owner: ``split_among`` for this buffer."""
        return split_among(self.starts, self.sizes, self.length, replicas)


def split_among(starts: Sequence[int], sizes: Sequence[int], length: int, replicas: int) -> list[list[tuple[int, int]]]:
    """Cut a buffer into the ranges of its owners: each chunk into one span per owner, of about equal size.

    Spans are cut where an array begins, or at multiples of SPAN_UNIT in one.

    Args:
        starts: where the arrays in it begin, in order.
        sizes: their sizes.
        length: of the buffer.
        replicas: how many owners there are.

    Example:
        >>> split_among([0, 10000, 10032], [10000, 20, 6000], 16032, 3)
        [[(0, 4096)], [(4096, 10032)], [(10032, 16032)]]
    """

    def near(position: int) -> int:
        """Return the place near a position where a span may be cut."""
        k = max(0, bisect_right(starts, position) - 1)
        cut = starts[k] + round((position - starts[k]) / SPAN_UNIT) * SPAN_UNIT
        after = starts[k + 1] if k + 1 < len(starts) else length
        return after if cut >= starts[k] + sizes[k] else cut

    owned: list[list[tuple[int, int]]] = [[] for _ in range(replicas)]
    chunks = max(1, round(length / CHUNK))
    limits = [near(length * k // (chunks * replicas)) for k in range(chunks * replicas)]
    for k, (begin, end) in enumerate(pairwise([*limits, length])):
        if begin < end:
            owned[k % replicas].append((begin, end))
    return owned
