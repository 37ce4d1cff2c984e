"""What precedes the first step over a list of variables: an agreement, replica 0's values, shared memory."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from distopt.aggregators.sum import Sum
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import Call, agree, exchange_bytes, telling_the_others
from distopt.distribute.collectives import copy_from
from distopt.distribute.strategy import Strategy
from distopt.engine.sweep.sharing import share_state, shared_slots
from distopt.engine.sweep.sweep import Sweep
from distopt.errors import NoSharedMemoryError
from distopt.memory.digests import digest as digest_of_arrays
from distopt.slabs.slab import Slab, describe
from distopt.variables.variable import Variable

if TYPE_CHECKING:
    from distopt.optimizers.common.base import BaseOptimizer


def begin_plan(optimizer: BaseOptimizer, strategy: Strategy, slab: Slab) -> None:
    """The first time for a list of variables: agree on it, and make every replica start from replica 0's values."""
    communicator = strategy.communicator
    if communicator in slab.agreed:
        return
    # What follows depends on what was done before: where that differs, it must be known now.
    new = describe(_not_synchronised(optimizer, communicator, slab.variables))
    agree(
        communicator,
        plan_call(optimizer, communicator, slab, "first step over these variables", values={"not built before": new}),
    )
    if communicator not in optimizer._numbers:
        communicator.optimizers += 1
        optimizer._numbers[communicator] = communicator.optimizers
    with telling_the_others(communicator):
        optimizer._build_aggregator(slab.variables)
    if strategy.broadcast:
        synchronise(optimizer, communicator, slab.variables)
    _share(optimizer, strategy, slab)
    slab.agreed.add(communicator)


def _share(optimizer: BaseOptimizer, strategy: Strategy, slab: Slab) -> None:
    """Let the replicas of a node read each other's gradients and, in shared mode, have one copy of the state."""
    node = strategy.node()
    if node is None:
        return
    try:
        wire = optimizer._aggregator.wire if isinstance(optimizer._aggregator, Sum) else None
        is_shared = strategy.shares_parameters
        sweep = Sweep(node, slab, is_shared=is_shared, wire=wire)
        if is_shared:  # the last: what is shared stays so, and there would be no way back to messages
            share_state(optimizer, slab, node)
        slab.sweeps[strategy.communicator] = sweep
    except NoSharedMemoryError as error:
        if any(home.shared_by is not None for home in slab.homes):
            raise
        strategy.do_without_node(error)


def synchronise(optimizer: BaseOptimizer, communicator: Communicator, variables: Sequence[Variable]) -> None:
    """Overwrite parameters and the optimizer's state by replica 0's, once per communicator; warn where one differed.

    Raises:
        CollectiveMismatchError: the replicas' optimizers do not have the same variables.
    """
    new = _not_synchronised(optimizer, communicator, variables)
    if communicator.size == 1 or not new:
        return
    shared = shared_slots(optimizer)
    state = [variable for variable in optimizer._state() if variable not in shared]
    agree(
        communicator,
        Call(
            f"broadcast of the initial values of {type(optimizer).__name__}",
            lambda: {"variables": describe(new), "optimizer state": describe(state, names=False)},
        ),
    )
    before = [digest_of_arrays([variable]) for variable in new]
    copy_from(communicator, [variable.storage.array for variable in [*new, *state]], 0)
    optimizer._synchronised.setdefault(communicator, set()).update(new)
    changed = [k for k, variable in enumerate(new) if digest_of_arrays([variable]) != before[k]]
    reports = exchange_bytes(communicator, struct.pack("<q", min(changed, default=-1)))
    firsts = [struct.unpack("<q", report)[0] for report in reports]
    other = next((r for r, first in enumerate(firsts) if first >= 0), None)
    if other is not None and communicator.index == 0:
        warnings.warn(
            f"replica {other} began with other values than replica 0, first in variable "
            f"{new[firsts[other]].name!r}: replica 0's were taken. Seed every replica alike, or pass "
            "Strategy(broadcast=False) to keep them apart",
            stacklevel=5,
        )


def _not_synchronised(
    optimizer: BaseOptimizer, communicator: Communicator, variables: Sequence[Variable]
) -> list[Variable]:
    done = optimizer._synchronised.get(communicator, set())
    return [variable for variable in variables if variable not in done]


def plan_call(
    optimizer: BaseOptimizer,
    communicator: Communicator,
    slab: Slab,
    name: str,
    step: int = -1,
    values: Mapping[str, float | str] | None = None,
) -> Call:
    """What the replicas agree on: who steps what, in which step, with which hyperparameters."""

    def tell() -> dict[str, str]:
        description = {"optimizer": optimizer._told(communicator), "variables": slab.description}
        return description | {label: str(value) for label, value in (values or {}).items()}

    return Call(f"{name} of {type(optimizer).__name__}", tell, step)
