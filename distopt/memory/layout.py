"""The layout of arrays in flat memory, and where that memory comes from.

Every array begins on a 64-byte limit; the padding between arrays is zero and takes part in nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arrays import Array
from distopt.memory.segment import Segment

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""

SPAN_UNIT = 4096
"""Elements: owners' spans are cut in variables at multiples of this, the blocks of the norms."""

_buffers = itertools.count()


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
