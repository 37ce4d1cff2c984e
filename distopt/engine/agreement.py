"""Stage 3 of a step: the header, and what follows from it alike on all replicas."""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING

import numpy as np

from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import Flag, agree, digest, exchange_bytes
from distopt.distribute.strategy import Strategy
from distopt.engine.beginning import plan_call
from distopt.engine.divergence import is_due, settle, state_of
from distopt.errors import InvalidArgumentError
from distopt.process.replica import current_replica
from distopt.slabs.intake import ABSENT, DENSE, SPARSE
from distopt.slabs.slab import Gradients, Slab
from distopt.variables.indexed_slices import IndexedSlices

if TYPE_CHECKING:
    from distopt.optimizers.common.base import BaseOptimizer


def agree_on_step(
    optimizer: BaseOptimizer,
    strategy: Strategy,
    slab: Slab,
    hyperparameters: dict[str, float],
    mine: bytearray,
    sparse: dict[int, IndexedSlices],
    items: float | None,
    name: str,
) -> tuple[bytearray, float | None]:
    """Exchange the step header; return what exists on any replica, and the items of all.

    Raises:
        InvalidArgumentError: gradients of no items that are not zero, on all replicas.
    """
    communicator, replica, step = strategy.communicator, current_replica(), int(optimizer._iterations.storage.array)
    named = " ".join([name, *hyperparameters]).encode()
    header = functools.partial(
        agree,
        communicator,
        plan_call(optimizer, communicator, slab, name, step, hyperparameters),
        call_digest=optimizer._call_digest(slab, communicator),
        hyper_digest=digest(named + struct.pack(f"<{len(hyperparameters)}d", *hyperparameters.values())),
        presence=digest(bytes(mine)),
        items=items,
    )
    is_checked, state, flags = is_due(optimizer, strategy), 0, 0
    if is_checked:
        if strategy.shares_parameters:
            header()  # when all have come, nobody writes any more what is looked at now
        state, flags = state_of(optimizer, strategy, slab)
    agreement = header(state=state, flags=flags | Flag.STOP * replica.stop_requested)
    if any(agreement.flags):
        replica.stop_agreed = any(flags & Flag.STOP for flags in agreement.flags)
    if is_checked:
        settle(optimizer, strategy, slab, agreement)
    total = None if items is None else float(np.sum(agreement.items))
    if total == 0:
        _refuse_gradients_of_nothing(communicator, slab, mine, sparse, step)
    if not agreement.presence_differs:
        return mine, total
    table = np.array([list(row) for row in exchange_bytes(communicator, bytes(mine))], np.uint8)
    # Dense on one replica: dense on all. Sparse on some and absent on others: sparse.
    return bytearray(np.where((table == DENSE).any(0), DENSE, table.max(0)).tolist()), total


def _refuse_gradients_of_nothing(
    communicator: Communicator, slab: Slab, mine: bytearray, sparse: dict[int, IndexedSlices], step: int
) -> None:
    brought = {
        k: sparse[k].values if kind == SPARSE else slab.views[k] for k, kind in enumerate(mine) if kind != ABSENT
    }
    names = " ".join(repr(slab.variables[k].name) for k, values in brought.items() if values.any())
    everybodys = exchange_bytes(communicator, names.encode())
    if any(everybodys):
        found = "; ".join(f"replica {r}: {row.decode()}" for r, row in enumerate(everybodys) if row)
        raise InvalidArgumentError(
            f"step {step}: items=0 on all replicas, so there is nothing to divide by, and gradients are not zero "
            f"(seen on {found}). Count the items that the summed loss is over; a term that is there without any (a "
            "penalty) is multiplied by this replica's items"
        )


def present(
    optimizer: BaseOptimizer,
    slab: Slab,
    mine: bytearray,
    agreed: bytearray,
    sparse: dict[int, IndexedSlices],
    *,
    are_summed: bool,
) -> Gradients:
    """Leave out what exists on no replica; what exists on others only counts as zero here (in sums it did already).

    Raises:
        InvalidArgumentError: no gradient exists on any replica.
    """
    if agreed is not mine:
        for k, (kind, wanted) in enumerate(zip(mine, agreed, strict=True)):
            if wanted == DENSE and kind != DENSE:
                rows = sparse.pop(k, None)
                if not are_summed:
                    slab.views[k][...] = 0 if rows is None else rows.to_dense()
            elif wanted == SPARSE and kind == ABSENT:
                variable = slab.variables[k]
                no_rows = np.empty((0, *variable.shape[1:]), variable.dtype)
                sparse[k] = IndexedSlices(no_rows, np.empty(0, np.int64), variable.shape)
    if ABSENT not in agreed:
        return Gradients(slab, slab.all_entries, sparse)
    absent = [slab.variables[k].name for k, kind in enumerate(agreed) if kind == ABSENT]
    optimizer._missing(absent, everything=len(absent) == len(agreed))
    return Gradients(slab, [k for k, kind in enumerate(agreed) if kind != ABSENT], sparse)
