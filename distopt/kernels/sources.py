"""The source text of the fused kernels: plain loops, one per kernel, generated from the rules.

Every loop runs over slices of arrays, from 0 to their length: LLVM turns only such loops into vector code.
Kernels that take spans check all spans before they write, and return the index of the first bad one, or -1.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import indent

from distopt.kernels.elementwise import Operation
from distopt.kernels.reference import NORM_BLOCK, NORM_LANES
from distopt.kernels.rule import Rule


def _lines(lines: Sequence[str], depth: int) -> str:
    """Join statements, all but the first indented by ``depth`` levels."""
    return ("\n" + "    " * depth).join(lines)


def update_source(rule: Rule, dtype: str) -> str:
    """Return ``update_<rule>(parameter, gradient, *slots, scalars, spans) -> int``."""
    stored = ["p", *rule.slots]
    return f"""\
from numpy import {dtype}, sqrt


def update_{rule.name}({", ".join(f"all_{x}" for x in ["p", "g", *rule.slots])}, scalars, spans):
    size = {" ".join(f"min(all_{x}.size," for x in rule.slots)} all_p.size{")" * len(rule.slots)}
    for k in range(spans.shape[0]):
        start, offset, length = spans[k]
        if start < 0 or offset < 0 or length < 0 or start > size - length or offset > all_g.size - length:
            return k
    {_lines([f"{name} = {dtype}(scalars[{c}])" for c, name in enumerate(rule.scalars)], 1)}
    for k in range(spans.shape[0]):
        start, offset, length = spans[k]
        span_g = all_g[offset : offset + length]
        {_lines([f"span_{x} = all_{x}[start : start + length]" for x in stored], 2)}
        for i in range(length):
            g = span_g[i]
            {_lines([f"{x} = span_{x}[i]" for x in stored], 3)}
            {_lines(rule.body.splitlines(), 3)}
            {_lines([f"span_{x}[i] = {x}" for x in stored], 3)}
    return -1
"""


def operation_source(operation: Operation, dtype: str) -> str:
    """Return ``<operation>(flat, scalars, spans) -> int``, with one row of scalars per span."""
    return f"""\
from numpy import {dtype}


def {operation.name}(flat, scalars, spans):
    for k in range(spans.shape[0]):
        start, length = spans[k]
        if start < 0 or length < 0 or start > flat.size - length:
            return k
    for k in range(spans.shape[0]):
        start, length = spans[k]
        {_lines([f"{name} = {dtype}(scalars[k, {c}])" for c, name in enumerate(operation.scalars)], 2)}
        span = flat[start : start + length]
        for i in range(length):
            x = span[i]
            {operation.body}
            span[i] = x
    return -1
"""


def add_source(count: int, out_row: int | None) -> str:
    """Return ``add_<count>(*rows, out)``: the tree of ``count`` rows, written out in one expression.

    Where the sum replaces a row, the source names this row as the output. With an ``out`` that overlaps a row, LLVM
    would assume that elements depend on each other, and would not vectorise.
    """
    rows = [f"row_{r}" for r in range(count)]
    parameters, out = (rows, f"row_{out_row}") if out_row is not None else ([*rows, "out"], "out")
    return f"""\
def add_{count}({", ".join(parameters)}):
    for i in range({out}.size):
        {out}[i] = {_tree([f"{row}[i]" for row in rows])}
"""


def _tree(terms: list[str]) -> str:
    """Return the sum of ``terms`` with the parentheses of the summation tree."""
    while len(terms) > 1:
        odd = terms[-1:] if len(terms) % 2 else []
        terms = [f"({a} + {b})" for a, b in zip(terms[::2], terms[1::2], strict=False)] + odd
    return terms[0]


# Adds neighbours among the first ``count`` terms until one is left; an odd last one is carried up.
_TREE_IN_PLACE = """\
while count > 1:
    half = count // 2
    for i in range(half):
        terms[i] = terms[2 * i] + terms[2 * i + 1]
    if count % 2:
        terms[half] = terms[count - 1]
    count = half + count % 2
"""


def square_sums_source() -> str:
    """Return ``square_sums(flat, spans, out) -> int``.

    There are 128 lanes, so that LLVM vectorises the loop over them; with 8 lanes it has half the speed.
    """
    return f"""\
from numpy import empty, float64


def square_sums(flat, spans, out):
    longest = 0
    for k in range(spans.shape[0]):
        start, length = spans[k]
        if start < 0 or length < 0 or start > flat.size - length:
            return k
        longest = max(longest, length)
    terms = empty(longest // {NORM_BLOCK} + 1)
    lanes = empty({NORM_LANES})
    for k in range(spans.shape[0]):
        start, length = spans[k]
        span = flat[start : start + length]
        terms[0] = 0.0
        count = 0
        for first in range(0, length, {NORM_BLOCK}):
            block = span[first : min(first + {NORM_BLOCK}, length)]
            lanes[:] = 0.0
            for begin in range(0, block.size, {NORM_LANES}):
                row = block[begin : min(begin + {NORM_LANES}, block.size)]
                for i in range(row.size):
                    x = float64(row[i])
                    lanes[i] += x * x
            half = {NORM_LANES}
            while half > 1:
                half //= 2
                for i in range(half):
                    lanes[i] += lanes[half + i]
            terms[count] = lanes[0]
            count += 1
{indent(_TREE_IN_PLACE, " " * 8)}        out[k] = terms[0]
    return -1
"""


def tree_sum_source() -> str:
    """Return ``tree_sum(values) -> float``."""
    return f"""\
def tree_sum(values):
    terms = values.copy()
    count = values.size
{indent(_TREE_IN_PLACE, " " * 4)}    return terms[0] if values.size else 0.0
"""
