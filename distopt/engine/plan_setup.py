"""Stage 2, before the first step over variables: an agreement, replica 0's values, shared memory."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence

from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import Call, agree, exchange_bytes
from distopt.distribute.collectives import copy_from
from distopt.engine.call import StepCall
from distopt.engine.engine import Engine
from distopt.engine.plan import Plan
from distopt.engine.state.family import Family
from distopt.engine.sweep.node_memory import NodeMemory
from distopt.engine.sweep.shared_mode import mark_shared_slots, share_state
from distopt.errors import NoSharedMemoryError
from distopt.memory.digests import digest
from distopt.slabs.listing import Listing
from distopt.slabs.slab import Slab, describe
from distopt.variables.variable import Variable


def set_up_plan(call: StepCall, listing: Listing) -> Plan | None:
    """Return the plan of a list; the first time, agree on it and start from replica 0's values (collective).

    What the slab holds beside the list was agreed on before, and is part of what is agreed on now.

    Returns:
        None where nothing is communicated.
    """
    strategy, engine = call.strategy, call.engine
    if strategy is None:
        return None
    slab, communicator = listing.slab, strategy.communicator
    plan = engine.plans.get((slab, communicator)) or Plan(slab, communicator)
    if plan.is_agreed or not slab.variables:
        return plan
    # What follows depends on what was done before: where that differs, it must be known now.
    new = describe(engine.not_synchronised(communicator, slab.variables))
    agree(communicator, call.header(listing, "first step over these variables", values={"not built before": new}))
    engine.note_member(communicator)
    strategy.note_user(engine)
    engine.options.build_aggregator(slab.variables)
    if strategy.broadcast:
        synchronise(call.family, engine, communicator, slab.variables)
    plan.note_agreement(_share(call, slab))
    engine.note_plan(plan)
    call.note_mode(strategy)
    return plan


def _share(call: StepCall, slab: Slab) -> NodeMemory | None:
    """Let the replicas of a node read each other's gradients and, in shared mode, have one copy of the state."""
    strategy, engine = call.aggregating_strategy, call.engine
    node = strategy.node()
    if node is None:
        return None
    try:
        is_shared = strategy.shares_parameters
        memory = NodeMemory(node, slab, is_shared=is_shared, wire=engine.options.wire)
        if is_shared:  # the last: what is shared stays so, and there would be no way back to messages
            share_state(call.family.kind, engine.slots, slab, node)
        return memory
    except NoSharedMemoryError as error:
        if any(buffer.shared_by is not None for buffer in slab.buffers):
            raise
        strategy.do_without_node(error)
        return None


def share_new_slots(call: StepCall, slab: Slab) -> None:
    """In shared mode, make the slots that this step has made those of the node (collective)."""
    node, slots = call.aggregating_strategy.node(), call.engine.slots
    assert node is not None
    if slots.not_shared:
        share_state(call.family.kind, slots, slab, node)
    mark_shared_slots(slots, node)


def synchronise(family: Family, engine: Engine, communicator: Communicator, variables: Sequence[Variable]) -> None:
    """Overwrite parameters and the optimizer's state by replica 0's, once per communicator; warn where one differed.

    Raises:
        CollectiveMismatchError: the replicas' optimizers do not have the same variables.
    """
    new = engine.not_synchronised(communicator, variables)
    if communicator.size == 1 or not new:
        return
    shared = engine.slots.shared_variables()
    state = [variable for variable in family.state() if variable not in shared]
    agree(
        communicator,
        Call(
            f"broadcast of the initial values of {family.kind}",
            lambda: {"variables": describe(new), "optimizer state": describe(state, names=False)},
        ),
    )
    before = [digest([variable]) for variable in new]
    copy_from(communicator, [variable.storage.array for variable in [*new, *state]], 0)
    engine.note_synchronised(communicator, new)
    changed = [k for k, variable in enumerate(new) if digest([variable]) != before[k]]
    reports = exchange_bytes(communicator, struct.pack("<q", min(changed, default=-1)))
    firsts = [struct.unpack("<q", report)[0] for report in reports]
    other = next((r for r, first in enumerate(firsts) if first >= 0), None)
    if other is not None and communicator.index == 0:
        warnings.warn(
            f"replica {other} began with other values than replica 0, first in variable "
            f"{new[firsts[other]].name!r}: replica 0's were taken. Seed every replica alike, or pass "
            "Strategy(broadcast=False) to keep them apart",
            stacklevel=6,
        )
