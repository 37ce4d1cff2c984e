"""Flat memory for the gradients of a list of variables.

A ``Slab`` is made once for a list, and has everything about the list that does not change from step to step.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from distopt.arrays import Array, wide_dtype
from distopt.memory.flat_buffer import FlatBuffer, split_among
from distopt.memory.layout import ALIGNMENT, SPAN_UNIT, flat_memory, layout
from distopt.memory.storage import Storage
from distopt.variables.variable import Variable

UpdateTable: TypeAlias = "tuple[FlatBuffer, int, Array]"
"""A flat buffer, a variant of the rule, and rows of (start in the buffer, start in the gradients, length)."""

_AFTER_SLOTS = 8
"""Slabs are staggered after the parameters and their slots."""

_TABLES = 64
"""So many tables of parts of the list are kept."""


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def describe(variables: Iterable[Variable], *, names: bool = True) -> str:
    """Return names, shapes and dtypes, as the message about a mismatch shows them.

    Variables of one name, shape and dtype are told apart by the order in which they were made.
    """
    listed = list(variables)
    texts = [f"{v.name + ': ' if names else ''}{v.dtype.name}{list(v.shape)}" for v in listed]
    if names and len(set(texts)) < len(texts):
        texts = _told_apart(listed, texts)
    return ", ".join(texts) or "none"


def _told_apart(variables: Sequence[Variable], texts: Sequence[str]) -> list[str]:
    numbers: dict[str, set[int]] = {}
    for variable, text in zip(variables, texts, strict=True):
        numbers.setdefault(text, set()).add(variable.number)
    places = {text: {n: k for k, n in enumerate(sorted(twins), 1)} for text, twins in numbers.items()}
    return [
        f"{text} (made as number {places[text][variable.number]} of {len(places[text])})"
        if len(places[text]) > 1
        else text
        for variable, text in zip(variables, texts, strict=True)
    ]


class Slab:
    """Memory for one gradient per listed variable.

    Args:
        variables: the variables, in the order of the step; the same one may stand twice.
        index_on_node: this replica's, where others of its node may come to read the slab; None keeps it private.
        variants: which variant of the optimizer's rule updates each variable; None: the rule itself.
    """

    def __init__(
        self, variables: Sequence[Variable], index_on_node: int | None = None, variants: Sequence[int] | None = None
    ) -> None:
        self.variables = list(variables)
        self._lengths: dict[np.dtype[Any], int] = {}
        self.starts = [0] * len(self.variables)
        self.ends = [0] * len(self.variables)
        self.views: list[Array] = []
        self.members: dict[np.dtype[Any], list[int]] = {}
        for k, variable in enumerate(self.variables):
            self.members.setdefault(variable.dtype, []).append(k)
        for dtype, members in self.members.items():
            starts, length = layout([self.variables[k].size for k in members], dtype.itemsize)
            self._lengths[dtype] = length
            for k, start, end in zip(members, starts, [*starts[1:], length], strict=True):
                self.starts[k], self.ends[k] = start, end
        self.first_norm_block = [0, *itertools.accumulate(-(-v.size // SPAN_UNIT) for v in self.variables)]
        """The index in ``squares`` at which each entry's block sums of squares begin."""
        number = None if index_on_node is None else _AFTER_SLOTS + index_on_node
        raw, self.segment = flat_memory(self._nbytes, np.dtype(np.uint8), number)
        self.flats, self.squares, self.wide = self._carve(raw)
        for variable, start in zip(self.variables, self.starts, strict=True):
            view = self.flats[variable.dtype][start : start + variable.size]
            self.views.append(view.reshape(variable.shape))
        self.dtypes = [view.dtype for view in self.views]
        self.all_entries = list(range(len(self.variables)))
        self.variants = [0] * len(self.variables) if variants is None else list(variants)
        """The variant of the optimizer's rule that updates each variable."""
        self._spans: dict[tuple[np.dtype[Any], bytes], Array] = {}
        self._update_tables: dict[bytes, list[UpdateTable]] = {}

    @property
    def _nbytes(self) -> int:
        sizes = [_padded(length * dtype.itemsize) for dtype, length in self._lengths.items()]
        wide = [_padded(length * wide_dtype(dtype).itemsize) for dtype, length in self._narrow_lengths.items()]
        return sum(sizes) + _padded(self.first_norm_block[-1] * 8) + sum(wide)

    @property
    def _narrow_lengths(self) -> dict[np.dtype[Any], int]:
        return {dtype: length for dtype, length in self._lengths.items() if wide_dtype(dtype) != dtype}

    def _carve(self, raw: Array) -> tuple[dict[np.dtype[Any], Array], Array, dict[np.dtype[Any], Array]]:
        """Cut bytes into the flat buffers, the block sums of squares, and float32 for each flat buffer of 16 bits."""
        flats, begin, wide = {}, 0, {}
        for dtype, length in self._lengths.items():
            flats[dtype] = raw[begin : begin + length * dtype.itemsize].view(dtype)
            begin += _padded(length * dtype.itemsize)
        squares = raw[begin : begin + self.first_norm_block[-1] * 8].view(np.float64)
        begin += _padded(squares.nbytes)
        for dtype, length in self._narrow_lengths.items():
            wider = wide_dtype(dtype)
            wide[dtype] = raw[begin : begin + length * wider.itemsize].view(wider)
            begin += _padded(length * wider.itemsize)
        return flats, squares, wide

    @cached_property
    def wide_views(self) -> list[Array]:
        """One array per variable where sums of its gradient are formed: in float32 for those of 16 bits."""
        return [
            self.wide[v.dtype][start : start + v.size].reshape(v.shape) if v.dtype in self.wide else view
            for v, start, view in zip(self.variables, self.starts, self.views, strict=True)
        ]

    def split_among(self, dtype: np.dtype[Any], replicas: int) -> list[list[tuple[int, int]]]:
        """Cut the gradients of one dtype into the ranges of their owners: the list alone decides, not its history."""
        members = self.members[dtype]
        sizes = [self.variables[k].size for k in members]
        return split_among([self.starts[k] for k in members], sizes, self._lengths[dtype], replicas)

    def of_another(self, segment: Array) -> tuple[dict[np.dtype[Any], Array], Array, dict[np.dtype[Any], Array]]:
        """Return flat buffers, sums of squares and wide buffers in the segment of another replica's equal slab."""
        return self._carve(segment[segment.size - self._nbytes :])  # each begins with a shift of its own

    @cached_property
    def storages(self) -> list[Storage]:
        """The memory of each variable."""
        return [variable.storage for variable in self.variables]

    @cached_property
    def buffers(self) -> list[FlatBuffer]:
        """Return the buffers that the variables lie in."""
        return list(dict.fromkeys(variable.storage.allocated_buffer for variable in self.variables))

    def spans(self, dtype: np.dtype[Any], entries: Sequence[int]) -> Array:
        """Return the (start, length) table of entries of one dtype, int64 of shape (k, 2)."""
        key = (dtype, b"all" if entries is self.all_entries else np.asarray(entries, np.int64).tobytes())
        if key not in self._spans:
            if len(self._spans) > _TABLES:
                self._spans.clear()
            rows = [(self.starts[k], self.variables[k].size) for k in entries if self.dtypes[k] == dtype]
            self._spans[key] = np.array(rows, np.int64).reshape(-1, 2)
        return self._spans[key]

    def update_tables(self, entries: Sequence[int]) -> list[UpdateTable]:
        """Return where entries lie in parameters and in the slab, for each flat buffer and variant of the rule."""
        key = b"all" if entries is self.all_entries else np.asarray(entries, np.int64).tobytes()
        if key not in self._update_tables:
            if len(self._update_tables) > _TABLES:
                self._update_tables.clear()
            groups: dict[tuple[FlatBuffer, int], list[tuple[int, int, int]]] = {}
            for k in entries:
                variable = self.variables[k]
                row = variable.storage.start, self.starts[k], variable.size
                groups.setdefault((variable.storage.allocated_buffer, self.variants[k]), []).append(row)
            self._update_tables[key] = [(*group, np.array(rows, np.int64)) for group, rows in groups.items()]
        return self._update_tables[key]
