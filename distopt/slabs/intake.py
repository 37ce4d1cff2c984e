"""Stage 1 of a step: the user's list of (gradient, variable), checked and laid into the slab."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from distopt.arguments import as_float
from distopt.errors import InvalidArgumentError
from distopt.slabs.slab import Pair, Slab, as_pairs, fit
from distopt.variables.indexed_slices import IndexedSlices

ABSENT, DENSE, SPARSE = 0, 1, 2


def own_pairs(grads_and_vars: Iterable[Pair]) -> list[Pair]:
    """Return the user's pairs as a list, after checking that this replica owns the variables.

    Raises:
        InvalidArgumentError: not (gradient, variable) pairs.
        ForeignVariableError: a variable that another replica made.
    """
    expected = "(gradient, Variable) pairs, such as zip(gradients, variables)"
    pairs = as_pairs(grads_and_vars, "apply_gradients received", expected)
    for _, variable in pairs:
        variable.check_owner()
    return pairs


def read_gradients(pairs: Iterable[Pair], slab: Slab, *, casts: bool) -> tuple[bytearray, dict[int, IndexedSlices]]:
    """Copy dense gradients into the slab and set the sparse ones aside.

    Args:
        pairs: the gradients (arrays, anything ``np.asarray`` takes, IndexedSlices or None) and their variables.
        slab: memory made for these variables; overwritten.
        casts: whether a gradient of another floating dtype is cast (Keras 3) or refused (legacy).

    Returns:
        For each entry ABSENT, DENSE or SPARSE; and the sparse gradients by entry.
    """
    kinds: bytearray = bytearray(len(slab.views))
    sparse: dict[int, IndexedSlices] = {}
    for k, (gradient, _) in enumerate(pairs):
        kinds[k] = read_gradient(gradient, slab, k, sparse, casts=casts)
    return kinds, sparse


def read_gradient(gradient: Any, slab: Slab, entry: int, sparse: dict[int, IndexedSlices], *, casts: bool) -> int:
    """Copy one gradient into the slab, or set it aside in ``sparse``; return which: ABSENT, DENSE or SPARSE."""
    view = slab.views[entry]
    if gradient is None:
        return ABSENT
    if gradient is view:
        return DENSE
    variable = slab.variables[entry]
    if type(gradient) is not np.ndarray or gradient.dtype != view.dtype or gradient.shape != view.shape:
        gradient = fit(gradient, variable, "the gradient", casts=casts)
    if isinstance(gradient, IndexedSlices):
        sparse[entry] = gradient
        return SPARSE
    if gradient.base is view.base and gradient.ctypes.data != view.ctypes.data:
        raise InvalidArgumentError(
            f"the gradient of {variable.name!r} is the gradient buffer of another variable: pass the arrays of "
            "gradient_buffers(variables) with the variables in the same order, or a copy"
        )
    np.copyto(view, gradient)
    return DENSE


def check_items(items: Any, aggregates: bool, averaged_loss: str | None) -> float | None:
    """Return ``items`` as a float.

    Raises:
        InvalidArgumentError: no count, or given where the aggregate must not be divided.
    """
    if items is None:
        return None
    if not aggregates:
        raise InvalidArgumentError(
            f"items={items!r} with experimental_aggregate_gradients=False: there is no aggregate to divide. "
            "Divide the gradients by the number of items yourself"
        )
    if averaged_loss is not None:
        raise InvalidArgumentError(
            f"items={items!r}, but the loss {averaged_loss!r}, computed under a tape since the last step, is an "
            "average already, so the gradients would be divided twice: use a summed loss (Reduction.SUM) with items=, "
            "or leave items= out. A loss that is only a metric is computed outside of the tape, or from "
            "distopt.stop_gradient(predictions)"
        )
    number = as_float(items)
    if not (math.isfinite(number) and number >= 0):
        raise InvalidArgumentError(
            f"items={items!r}: expected the number of items (examples, tokens) of this replica's loss, 0 or more"
        )
    return number
