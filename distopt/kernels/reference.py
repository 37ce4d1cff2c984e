"""The kernels in NumPy: the specification that the fused kernels equal bit for bit.

Written for the reader: whole spans at a time, no blocks, no scratch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distopt.kernels.elementwise import Operation
from distopt.kernels.rule import Array, Rule
from distopt.kernels.spans import Spans, check_spans, compute_dtype

NORM_BLOCK = 4096
NORM_LANES = 128


def update(
    rule: Rule,
    parameter: Array,
    gradient: Array,
    slots: Sequence[Array],
    scalars: Sequence[float],
    spans: Spans,
) -> None:
    """Apply ``rule`` to each span; see ``distopt.kernels.update``."""
    check_spans(spans, min([parameter.size, *(slot.size for slot in slots)]), gradient.size)
    dtype = compute_dtype(parameter.dtype)
    with np.errstate(all="ignore"):
        values = np.array(scalars, np.float64).astype(dtype)
        for start, offset, length in spans.tolist():
            g = gradient[offset : offset + length].astype(dtype, copy=False)
            stored = [array[start : start + length] for array in (parameter, *slots)]
            computed = [array.astype(dtype, copy=False) for array in stored]
            rule.reference(computed[0], g, *computed[1:], *values)
            _store(stored, computed)


def apply(operation: Operation, flat: Array, spans: Spans, scalars: npt.NDArray[np.float64]) -> None:
    """Apply ``operation`` to each span in place, with one row of ``scalars`` per span."""
    check_spans(spans, flat.size)
    dtype = compute_dtype(flat.dtype)
    with np.errstate(all="ignore"):
        for (start, length), values in zip(spans.tolist(), scalars.astype(dtype), strict=True):
            stored = flat[start : start + length]
            computed = stored.astype(dtype, copy=False)
            operation.reference(computed, *values)
            _store([stored], [computed])


def _store(stored: Sequence[Array], computed: Sequence[Array]) -> None:
    """Round computed values back into the arrays they came from, where these have another dtype."""
    for array, values in zip(stored, computed, strict=True):
        if values is not array:
            array[...] = values


def add_tree(rows: Sequence[Array], out: Array) -> None:
    """Write the tree sum of ``rows`` to ``out``; see ``distopt.kernels.add_tree``."""
    with np.errstate(all="ignore"):
        out[...] = _add_adjacent([row.astype(compute_dtype(row.dtype), copy=False) for row in rows])


def _add_adjacent(terms: list[Array]) -> Array:
    """Add neighbours until one term is left; an odd last one goes up a level unchanged."""
    if len(terms) == 1:
        return terms[0]
    pairs = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)]
    return _add_adjacent(pairs + terms[2 * len(pairs) :])


def square_sums(flat: Array, spans: Spans) -> npt.NDArray[np.float64]:
    """Return the sum of squares of each span; see ``distopt.kernels.square_sums``."""
    check_spans(spans, flat.size)
    with np.errstate(all="ignore"):
        return np.array([_square_sum(flat[start : start + length]) for start, length in spans.tolist()], np.float64)


def _square_sum(span: Array) -> float:
    blocks = [span[start : start + NORM_BLOCK] for start in range(0, span.size, NORM_BLOCK)]
    return tree_sum(np.array([_block_sum(block.astype(np.float64)) for block in blocks], np.float64))


def _block_sum(block: npt.NDArray[np.float64]) -> float:
    """Add the squares lane by lane, then fold the upper half of the lanes onto the lower one."""
    padded = np.zeros(-(-block.size // NORM_LANES) * NORM_LANES)
    padded[: block.size] = block * block
    lanes = np.sum(padded.reshape(-1, NORM_LANES), axis=0)
    while lanes.size > 1:
        lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
    return float(lanes[0])


def tree_sum(values: npt.NDArray[np.float64]) -> float:
    """Return the tree sum of ``values``; see ``distopt.kernels.tree_sum``."""
    if not values.size:
        return 0.0
    with np.errstate(all="ignore"):
        return float(_add_adjacent(list(values)))
