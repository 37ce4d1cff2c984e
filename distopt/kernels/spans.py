"""Spans (ranges of flat arrays) and the dtypes that kernels compute in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from distopt.errors import InvalidArgumentError
from distopt.kernels.rule import Array

Spans = npt.NDArray[np.int64]

BLOCK = 16_384
"""Elements of a 16-bit array that are held in float32 at a time, so that all blocks of an update fit the L2 cache."""

COMPUTE_DTYPE: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(np.float64): np.dtype(np.float64),
    np.dtype(np.float32): np.dtype(np.float32),
    np.dtype(np.float16): np.dtype(np.float32),
    np.dtype(ml_dtypes.bfloat16): np.dtype(np.float32),
}
"""The dtype in which a kernel computes, for each dtype that an array may have."""


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which kernels compute on arrays of ``dtype``.

    Raises:
        InvalidArgumentError: no kernel takes this dtype.

    Example:
        >>> compute_dtype(np.dtype(np.float16))
        dtype('float32')
    """
    try:
        return COMPUTE_DTYPE[dtype]
    except KeyError:
        known = ", ".join(str(each) for each in COMPUTE_DTYPE)
        raise InvalidArgumentError(f"kernels compute on {known}; got an array of {dtype}: cast it first") from None


def check_spans(spans: Spans, *sizes: int) -> None:
    """Raise unless every span lies inside its arrays; column c of ``spans`` is for an array of ``sizes[c]`` elements.

    Raises:
        InvalidArgumentError: a span reaches outside of its array.

    Example:
        >>> check_spans(np.array([[0, 4], [4, 4]]), 8)
    """
    lengths = spans[:, -1]
    for column, size in enumerate(sizes):
        starts = spans[:, column]
        bad = np.flatnonzero((starts < 0) | (lengths < 0) | (starts > size - lengths))
        if bad.size:
            k = int(bad[0])
            raise InvalidArgumentError(
                f"span {k} of {len(spans)} is {spans[k].tolist()}: {lengths[k]} elements from {starts[k]} do "
                f"not lie inside an array of {size}; make spans from the layout of the arrays that they cut"
            )


def pieces(spans: Spans) -> Iterator[list[tuple[int, ...]]]:
    """Cut spans into pieces of at most ``BLOCK`` elements; yield groups of pieces that fit one block.

    A piece is (index of its span, its starts, its length). It begins at a multiple of ``BLOCK`` in its span.

    Example:
        >>> list(pieces(np.array([[0, 3], [8, 16_383]])))
        [[(0, 0, 3)], [(1, 8, 16383)]]
    """
    group: list[tuple[int, ...]] = []
    room = BLOCK
    for index, (*starts, total) in enumerate(spans.tolist()):
        for done in range(0, total, BLOCK):
            length = min(BLOCK, total - done)
            if length > room:
                yield group
                group, room = [], BLOCK
            group.append((index, *(start + done for start in starts), length))
            room -= length
    if group:
        yield group


def gather(source: Array, group: Sequence[tuple[int, ...]], column: int, block: Array) -> None:
    """Copy the pieces of ``source``, which start at ``piece[column]``, into ``block``, one after another."""
    at = 0
    for piece in group:
        start, length = piece[column], piece[-1]
        block[at : at + length] = source[start : start + length]
        at += length


def scatter(block: Array, group: Sequence[tuple[int, ...]], column: int, target: Array) -> None:
    """Copy the pieces back from ``block`` to ``target``."""
    at = 0
    for piece in group:
        start, length = piece[column], piece[-1]
        target[start : start + length] = block[at : at + length]
        at += length
