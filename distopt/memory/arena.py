"""Flat memory: one buffer per dtype, and variables, gradients and slots as views into it.

Every array begins on a 64-byte limit; the padding between arrays is zero and takes part in nothing. A kernel gets
the buffer and a table of spans, so that two hundred small variables are one call.
"""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from distopt.arrays import Array
from distopt.memory.segment import Segment

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""

CHUNK = 1 << 20
"""Elements, about: each owner has a part of every chunk, so that what comes together is summed by all of them."""

SPAN_UNIT = 4096
"""Elements: owners' spans are cut in variables at multiples of this, the blocks of the norms."""

_buffers = itertools.count()


class Placeable(Protocol):
    """What an arena needs of a variable."""

    _array: Array
    _arena: Home | None
    _start: int

    def _place(self, view: Array) -> None: ...


class SharedBy(Protocol):
    """Who shares a home: what a variable needs to be written."""

    def write(self, name: str, target: Array, value: Array) -> None:
        """Give all replicas of the job a new value (collective)."""


class Home:
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
        self.own: list[tuple[int, int]] | None = None
        """The ranges that this replica updates, where the memory is shared."""

    def parallel(self, number: int, dtype: np.dtype[Any]) -> tuple[Array, Segment | None]:
        """Return a buffer of the same layout, for slots: the number-th of them (from 0)."""
        return flat_memory(self.length, dtype, number + 1 if self.shareable else None)

    def parts(self, start: int, size: int) -> list[tuple[int, int]]:
        """Return the ranges of [start, start + size) that this replica updates."""
        if self.own is None:
            return [(start, start + size)]
        ranges = ((max(begin, start), min(end, start + size)) for begin, end in self.own)
        return [(begin, end) for begin, end in ranges if begin < end]

    def owned(self, replicas: int) -> list[list[tuple[int, int]]]:
        """Cut the buffer into the ranges of its owners: each chunk into one span per owner, of about equal size.

        Spans are cut where a variable begins, or at multiples of SPAN_UNIT in one.

        Example:
            >>> Home([10000, 20, 6000], np.dtype("float32"), shareable=False).owned(3)
            [[(0, 4096)], [(4096, 10032)], [(10032, 16032)]]
        """
        owned: list[list[tuple[int, int]]] = [[] for _ in range(replicas)]
        chunks = max(1, round(self.length / CHUNK))
        limits = [self._near(self.length * k // (chunks * replicas)) for k in range(chunks * replicas)]
        for k, (begin, end) in enumerate(pairwise([*limits, self.length])):
            if begin < end:
                owned[k % replicas].append((begin, end))
        return owned

    def _near(self, position: int) -> int:
        """Return the place near a position where a span may be cut."""
        k = max(0, bisect_right(self.starts, position) - 1)
        begin, size = self.starts[k], self.sizes[k]
        cut = begin + round((position - begin) / SPAN_UNIT) * SPAN_UNIT
        after = self.starts[k + 1] if k + 1 < len(self.starts) else self.length
        return after if cut >= begin + size else cut


def flat_memory(count: int, dtype: np.dtype[Any], number: int | None) -> tuple[Array, Segment | None]:
    """Return zeros of shape (count,), and the segment they lie in where a number is given and there is room for one.

    Args:
        count: how many.
        dtype: of what.
        number: which of the buffers that a kernel walks through together; the same on every replica that shares them.
    """
    if number is not None:
        segment = new_segment(count * dtype.itemsize + stagger(number))
        if segment is not None:
            return segment.bytes[stagger(number) :][: count * dtype.itemsize].view(dtype), segment
    return aligned_zeros(count, dtype), None


def stagger(number: int) -> int:
    """Return by how many bytes to shift the number-th of the buffers that a kernel walks through together.

    They must not begin at equal places of a 4 KB page: the processor takes a load for one that waits for a store to the
    other buffer (Adam over 16 M parameters: 20 % slower).

    Example:
        >>> stagger(0), stagger(1), stagger(4)
        (0, 1088, 256)
    """
    return number * 17 * ALIGNMENT % 4096


def new_segment(nbytes: int) -> Segment | None:
    """Return a segment, or None where there is no room for one."""
    try:
        return Segment(max(1, nbytes))
    except OSError:
        return None


def aligned_zeros(count: int, dtype: np.dtype[Any]) -> Array:
    """Return zeros of shape (count,) that begin on a 64-byte limit.

    Example:
        >>> aligned_zeros(3, np.dtype("float32"))
        array([0., 0., 0.], dtype=float32)
    """
    shift = stagger(next(_buffers))
    raw = np.zeros(count * dtype.itemsize + ALIGNMENT + shift, np.uint8)
    skip = -raw.ctypes.data % ALIGNMENT + shift
    return raw[skip : skip + count * dtype.itemsize].view(dtype)


def layout(sizes: Sequence[int], itemsize: int) -> tuple[list[int], int]:
    """Return where arrays of these sizes begin in a flat buffer, and the buffer's length (in elements).

    Example:
        >>> layout([3, 20, 1], itemsize=4)
        ([0, 16, 48], 64)
    """
    unit = max(1, ALIGNMENT // itemsize)
    starts, end = [], 0
    for size in sizes:
        starts.append(end)
        end += -(-size // unit) * unit
    return starts, end


def place(variables: Iterable[Placeable], *, shareable: bool = False) -> None:
    """Give variables that have no place yet one flat buffer per dtype; the others stay where they are.

    Args:
        variables: each keeps its value; its memory becomes a view into the buffer.
        shareable: whether replicas of one node may come to share it.
    """
    homeless: dict[np.dtype[Any], dict[int, Placeable]] = {}
    for variable in variables:
        if variable._arena is None:
            homeless.setdefault(variable._array.dtype, {})[id(variable)] = variable
    for dtype, group in homeless.items():
        members = list(group.values())
        home = Home([m._array.size for m in members], dtype, shareable=shareable)
        for member, start in zip(members, home.starts, strict=True):
            array = member._array
            member._place(home.flat[start : start + array.size].reshape(array.shape))
            member._arena, member._start = home, start


def digest(arrays: Iterable[Any]) -> str:
    """Return a digest of variables or arrays: equal exactly when shapes, dtypes and all bits are.

    Args:
        arrays: variables or arrays, in order; not changed. Padding takes no part.

    Returns:
        16 hexadecimal digits (BLAKE2b, 64 bits).

    Example:
        >>> digest([np.zeros(2), np.ones(3)]) == digest([np.zeros(2), np.ones(3)])
        True
    """
    result = hashlib.blake2b(digest_size=8)
    for item in arrays:
        array = np.ascontiguousarray(getattr(item, "_array", item))
        result.update(f"{array.dtype.name}{np.shape(item)}".encode())
        result.update(array.reshape(-1).view(np.uint8).data)
    return result.hexdigest()
