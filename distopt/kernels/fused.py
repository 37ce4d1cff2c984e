"""The kernels compiled by Numba: one pass over memory, and few microseconds of Python around it.

The results equal those of ``reference`` bit for bit. Arrays of 16 bits go through blocks of float32, rounded when
they are stored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from distopt.kernels import sources
from distopt.kernels.compiler import compile_kernel
from distopt.kernels.elementwise import Operation
from distopt.kernels.rule import Array, Rule
from distopt.kernels.spans import BLOCK, Spans, check_spans, compute_dtype, gather, pieces, scatter

MAX_ROWS = 8
"""The most rows that are added in one loop: with more streams the memory bandwidth collapses."""

_VALUES = numba.types.Array(numba.float64, 1, "C", readonly=True)
_TABLE = numba.types.Array(numba.float64, 2, "C", readonly=True)
_SPANS = numba.types.Array(numba.int64, 2, "C", readonly=True)


def _flat(dtype: np.dtype[Any], *, readonly: bool = False) -> Any:
    return numba.types.Array(numba.from_dtype(compute_dtype(dtype)), 1, "C", readonly=readonly)


@functools.cache
def _update_kernel(rule: Rule, dtype: np.dtype[Any]) -> Callable[..., int]:
    written = _flat(dtype)
    signature = numba.int64(written, _flat(dtype, readonly=True), *[written] * len(rule.slots), _VALUES, _SPANS)
    return compile_kernel(f"update_{rule.name}", sources.update_source(rule, dtype.name), signature)


@functools.cache
def _operation_kernel(operation: Operation, dtype: np.dtype[Any]) -> Callable[..., int]:
    signature = numba.int64(_flat(dtype), _TABLE, _SPANS)
    return compile_kernel(operation.name, sources.operation_source(operation, dtype.name), signature)


@functools.cache
def _add_kernel(count: int, dtype: np.dtype[Any], out_row: int | None = None) -> Callable[..., None]:
    types = [_flat(dtype, readonly=r != out_row) for r in range(count)] + [_flat(dtype)] * (out_row is None)
    return compile_kernel(f"add_{count}", sources.add_source(count, out_row), numba.void(*types))


@functools.cache
def _square_sums_kernel(dtype: np.dtype[Any]) -> Callable[..., int]:
    signature = numba.int64(_flat(dtype, readonly=True), _SPANS, _flat(np.dtype(np.float64)))
    return compile_kernel("square_sums", sources.square_sums_source(), signature)


@functools.cache
def _tree_sum_kernel() -> Callable[..., float]:
    return compile_kernel("tree_sum", sources.tree_sum_source(), numba.float64(_VALUES))


def update(
    rule: Rule,
    parameter: Array,
    gradient: Array,
    slots: Sequence[Array],
    scalars: Sequence[float],
    spans: Spans,
) -> None:
    """Apply ``rule`` to each span; see ``distopt.kernels.update``."""
    dtype = parameter.dtype
    values = np.array(scalars, np.float64)
    if dtype.itemsize == 2:
        _update_16_bit(rule, parameter, gradient, slots, values, spans)
    elif _update_kernel(rule, dtype)(parameter, gradient, *slots, values, spans) >= 0:
        check_spans(spans, min([parameter.size, *(slot.size for slot in slots)]), gradient.size)


def _update_16_bit(
    rule: Rule,
    parameter: Array,
    gradient: Array,
    slots: Sequence[Array],
    values: npt.NDArray[np.float64],
    spans: Spans,
) -> None:
    check_spans(spans, min([parameter.size, *(slot.size for slot in slots)]), gradient.size)
    dtype = compute_dtype(parameter.dtype)
    kernel = _update_kernel(rule, dtype)
    stored = (parameter, *slots)
    g, *computed = (np.empty(BLOCK, dtype) for _ in range(1 + len(stored)))
    with np.errstate(all="ignore"):
        for group in pieces(spans):
            gather(gradient, group, 2, g)
            for array, block in zip(stored, computed, strict=True):
                gather(array, group, 1, block)
            kernel(computed[0], g, *computed[1:], values, _whole(group))
            for array, block in zip(stored, computed, strict=True):
                scatter(block, group, 1, array)


def _whole(group: Sequence[tuple[int, ...]]) -> Spans:
    """Return the one span that the pieces of a group fill in a block."""
    return np.array([[0, 0, sum(piece[-1] for piece in group)]])


def apply(operation: Operation, flat: Array, spans: Spans, scalars: npt.NDArray[np.float64]) -> None:
    """Apply ``operation`` to each span in place, with one row of ``scalars`` per span."""
    dtype = flat.dtype
    if dtype.itemsize == 2:
        _apply_16_bit(operation, flat, spans, scalars)
    elif _operation_kernel(operation, dtype)(flat, scalars, spans) >= 0:
        check_spans(spans, flat.size)


def _apply_16_bit(operation: Operation, flat: Array, spans: Spans, scalars: npt.NDArray[np.float64]) -> None:
    check_spans(spans, flat.size)
    dtype = compute_dtype(flat.dtype)
    kernel = _operation_kernel(operation, dtype)
    block = np.empty(BLOCK, dtype)
    with np.errstate(all="ignore"):
        for group in pieces(spans):
            gather(flat, group, 1, block)
            kernel(block, scalars[[piece[0] for piece in group]], _consecutive(group))
            scatter(block, group, 1, flat)


def _consecutive(group: Sequence[tuple[int, ...]]) -> Spans:
    """Return start and length of each piece of a group in a block."""
    lengths = np.array([piece[-1] for piece in group])
    return np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)


_DTYPE_OF = attrgetter("dtype")


def add_tree(rows: Sequence[Array], out: Array) -> None:
    """Write the tree sum of ``rows`` to ``out``; see ``distopt.kernels.add_tree``."""
    dtype = out.dtype
    if len(rows) <= MAX_ROWS and dtype.itemsize > 2 and set(map(_DTYPE_OF, rows)) == {dtype}:
        out_row = None
        for r, row in enumerate(rows):
            if row is out:
                out_row = r
                break
        _add_kernel(len(rows), dtype, out_row)(*rows, *[out] * (out_row is None))
    else:
        _add_by_blocks(rows, out)


def _add_by_blocks(rows: Sequence[Array], out: Array) -> None:
    """Add block by block, groups of 8 rows first: each group is a whole subtree, so the tree is the same."""
    dtype = compute_dtype(out.dtype)
    scratch = np.empty((-(-len(rows) // MAX_ROWS), BLOCK), dtype)
    with np.errstate(all="ignore"):
        for start in range(0, out.size, BLOCK):
            target = out[start : start + BLOCK]
            terms = [row[start : start + BLOCK].astype(dtype, copy=False) for row in rows]
            while len(terms) > 1:
                groups = [terms[first : first + MAX_ROWS] for first in range(0, len(terms), MAX_ROWS)]
                terms = [_add_group(group, scratch[k, : target.size]) for k, group in enumerate(groups)]
            target[...] = terms[0]


def _add_group(terms: Sequence[Array], total: Array) -> Array:
    """Return the tree sum of at most 8 terms, computed in ``total``; a single term is returned as it is."""
    if len(terms) == 1:
        return terms[0]
    _add_kernel(len(terms), total.dtype)(*terms, total)
    return total


def square_sums(flat: Array, spans: Spans) -> npt.NDArray[np.float64]:
    """Return the sum of squares of each span; see ``distopt.kernels.square_sums``."""
    if flat.dtype.itemsize == 2:
        return _square_sums_16_bit(flat, spans)
    sums = np.empty(len(spans))
    if _square_sums_kernel(flat.dtype)(flat, spans, sums) >= 0:
        check_spans(spans, flat.size)
    return sums


def _square_sums_16_bit(flat: Array, spans: Spans) -> npt.NDArray[np.float64]:
    """Sum the pieces of each span, which are whole subtrees of its blocks, then add these sums in the same tree."""
    check_spans(spans, flat.size)
    dtype = compute_dtype(flat.dtype)
    kernel = _square_sums_kernel(dtype)
    block = np.empty(BLOCK, dtype)
    terms: list[list[float]] = [[] for _ in range(len(spans))]
    for group in pieces(spans):
        gather(flat, group, 1, block)
        sums = np.empty(len(group))
        kernel(block, _consecutive(group), sums)
        for piece, value in zip(group, sums.tolist(), strict=True):
            terms[piece[0]].append(value)
    return np.array([tree_sum(np.array(each)) for each in terms], np.float64)


def tree_sum(values: npt.NDArray[np.float64]) -> float:
    """Return the tree sum of ``values``; see ``distopt.kernels.tree_sum``."""
    return _tree_sum_kernel()(values)
