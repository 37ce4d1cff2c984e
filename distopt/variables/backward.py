"""The reverse pass: from the gradient of a target to the gradients of its sources, operation by operation."""

from __future__ import annotations

from typing import Any

import numpy as np
from autograd.core import VJPNode, add_outgrads
from autograd.tracer import isbox
from autograd.util import toposort

from distopt.errors import InvalidArgumentError
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.record import Record, Rows, TapeNode, convert
from distopt.variables.variable import Variable

Found = dict[TapeNode | None, tuple[Any, list[Rows]]]


def backward(
    record: Record, entering: list[tuple[TapeNode, Any]], wanted: set[TapeNode], *, followed: bool, release: bool
) -> Found:
    """Propagate gradients from the ends to the roots.

    Args:
        record: the tape's record; nodes of an older one, which the tape has dropped, bring no gradients.
        entering: the nodes of the targets, each with the gradient that enters there; not mutated.
        wanted: the nodes whose gradients are asked for.
        followed: whether the tape follows this computation too, for derivatives of higher order.
        release: whether to drop the record on the way, so that a kept loss does not keep the record in memory.

    Returns:
        Dense gradient (or None) and gathered rows of each wanted node that was reached.
    """
    dense: dict[TapeNode, Any] = {}
    rows: dict[TapeNode, list[Rows]] = {}
    found: Found = {}
    for end, seed in entering:
        dense[end] = add_outgrads(dense.get(end), seed)
    start = VJPNode.new_root()
    start.parents = [end for end, _ in entering]
    for node in list(toposort(start))[1:]:
        total, _ = dense.pop(node, (None, False))
        if node.record is not record:
            continue
        if node in wanted:
            found[node] = total, rows.get(node, [])
        if node.watched is not None:
            _check_unwritten(*node.watched)
            continue
        for parent, part in zip(node.parents, node.pull_back(total, followed=followed), strict=True):
            if isinstance(part, Rows):
                rows.setdefault(parent, []).append(part)
            else:
                dense[parent] = add_outgrads(dense.get(parent), part)
        if release:
            node.parents, node.vjp, node.call = [], None, None
    return found


def _check_unwritten(variable: Variable | None, version: int) -> None:
    if variable is not None and variable.storage.writes != version:
        raise InvalidArgumentError(
            f"Variable {variable.name!r} was written after the tape had read it; the gradient would mix both "
            "values. Call tape.gradient before assign and apply_gradients, and once for all sources."
        )


def finish(source: Any, total: Any, rows: list[Rows], taken: set[int]) -> Any:
    """Return the gradient in the source's dtype, in memory of its own; ``taken`` holds the ids of arrays in use."""
    if rows:
        ordered = sorted(rows)
        values = np.concatenate([part.values for part in ordered]).astype(source.dtype, copy=False)
        slices = IndexedSlices(values, np.concatenate([part.indices for part in ordered]), source.shape)
        if total is None:
            return slices
        total = total + slices.to_dense()
    if total is None or isbox(total):
        return None if total is None else convert(total, source.dtype)
    array = np.asarray(total, source.dtype, order="C")
    if not array.flags.owndata or id(array) in taken:
        array = array.copy()
    taken.add(id(array))
    return array
