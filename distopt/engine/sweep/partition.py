"""The partition of the gradients among their owners.

What exists once per node is owned where it lies, so that an element of a parameter always has the same owner. Else
the list decides alone: all replicas have agreed on it, and not on what each of them has done before.

A part never crosses a variable; its first element is a multiple of 4,096 in the variable, so that the block sums of the
norms belong to one owner each. Parts that follow one another in the slab are summed together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from distopt.arrays import Array
from distopt.memory.flat_buffer import FlatBuffer
from distopt.memory.layout import SPAN_UNIT
from distopt.slabs.slab import Slab

BLOCK = 1 << 16
"""Elements that are worked on while they are in the cache."""


@dataclass(frozen=True)
class Part:
    """Some elements of one entry of a slab.

    Args:
        entry: which.
        first: the first of them in the variable.
        begin: the first of them in the slab.
        length: how many.
        end: where they end in the slab, with the padding behind the variable.
    """

    entry: int
    first: int
    begin: int
    length: int
    end: int


def parts_of(slab: Slab, dtype: np.dtype[Any], entries: Sequence[int], replicas: int) -> list[list[Part]]:
    """Return the parts of each owner, in the order of the slab."""
    owned: list[list[Part]] = [[] for _ in range(replicas)]
    cuts: dict[FlatBuffer | None, list[list[tuple[int, int]]]] = {}
    for k in entries:
        variable = slab.variables[k]
        if variable.dtype != dtype:
            continue
        buffer, start, size = variable.storage.allocated_buffer, variable.storage.start, variable.size
        shared = buffer if buffer.shared_by is not None else None
        if shared not in cuts:
            cuts[shared] = slab.split_among(dtype, replicas) if shared is None else shared.split_among(replicas)
        if shared is None:
            start = slab.starts[k]
        for parts, ranges in zip(owned, cuts[shared], strict=True):
            for low, high in ranges:
                first, last = max(0, low - start), min(size, high - start)
                if first < last:
                    begin = slab.starts[k] + first
                    end = slab.ends[k] if last == size else begin + last - first
                    parts.append(Part(k, first, begin, last - first, end))
    return owned


def ranges_of(parts: Sequence[Part]) -> list[tuple[int, int]]:
    """Return the (begin, end) of parts in the slab; those that touch are one."""
    return [(run[0].begin, run[-1].end) for run in runs_of(parts)]


def runs_of(parts: Sequence[Part]) -> list[list[Part]]:
    """Group the parts that touch."""
    runs: list[list[Part]] = []
    for part in parts:
        if runs and runs[-1][-1].end == part.begin:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


class Block:
    """Parts of one owner that follow one another in the slab, few enough to stay in the cache.

    Args:
        slab: the slab.
        parts: the parts.
        flats: the flat buffers of the node's replicas, by their index on it.
        delegate: the index on the node of the one that gets their sum.
    """

    def __init__(self, slab: Slab, parts: Sequence[Part], flats: Sequence[Array], delegate: int) -> None:
        self._slab, self._parts = slab, parts
        self.dtype = slab.dtypes[parts[0].entry]
        self.begin, self.end = parts[0].begin, parts[-1].end
        self.rows = [flat[self.begin : self.end] for flat in flats]
        """The part that each replica of the node has."""
        self.total = self.rows[delegate]
        """The array that their sum comes to lie in."""
        self.entries = np.array([part.entry for part in parts])
        self.spans = np.array([(part.begin - self.begin, part.length) for part in parts], np.int64)
        """The start and length of each part in the block."""
        self.buffer = self.total, self.spans, self.entries
        """The sum as division and limits take it."""

    @cached_property
    def updates(self) -> list[tuple[FlatBuffer, int, Array]]:
        """For each buffer and variant of the rule the (start in it, start in the block, length) of the parts."""
        tables: dict[tuple[FlatBuffer, int], list[tuple[int, int, int]]] = {}
        for part in self._parts:
            variable = self._slab.variables[part.entry]
            row = (variable.storage.start + part.first, part.begin - self.begin, part.length)
            tables.setdefault((variable.storage.allocated_buffer, self._slab.variants[part.entry]), []).append(row)
        return [(*group, np.array(rows, np.int64)) for group, rows in tables.items()]

    @cached_property
    def norm_blocks(self) -> tuple[Array, Array]:
        """The (start, length) of every block of the norms, and its index in the table of their sums."""
        rows, indices = [], []
        for part in self._parts:
            for offset in range(0, part.length, SPAN_UNIT):
                rows.append((part.begin - self.begin + offset, min(SPAN_UNIT, part.length - offset)))
                indices.append(self._slab.first_norm_block[part.entry] + (part.first + offset) // SPAN_UNIT)
        return np.array(rows, np.int64), np.array(indices, np.int64)


def blocks_of(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Cut and join parts that follow one another into lists of about BLOCK elements."""
    waiting: list[Part] = []
    for part in (piece for whole in parts for piece in _pieces(whole)):
        if waiting and (waiting[-1].end != part.begin or part.end - waiting[0].begin > BLOCK):
            yield waiting
            waiting = []
        waiting.append(part)
    if waiting:
        yield waiting


def _pieces(part: Part) -> Iterator[Part]:
    for offset in range(0, part.length, BLOCK):
        length = min(BLOCK, part.length - offset)
        end = part.end if offset + length == part.length else part.begin + offset + length
        yield Part(part.entry, part.first + offset, part.begin + offset, length, end)
