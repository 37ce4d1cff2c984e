"""Stage 3 of a step: the header, and what follows from it alike on all replicas."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import Brought, Flag, agree, as_bytes, digest, exchange_bytes, exchange_texts
from distopt.engine.call import StepCall
from distopt.engine.plan import Plan
from distopt.errors import InvalidArgumentError
from distopt.process.moments import Moment
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import DENSE, SPARSE


@dataclass(frozen=True, slots=True)
class Agreed:
    """The agreement on one step: which gradients exist on any replica, and the items of all."""

    kinds: bytearray
    items: float | None


def agree_on_step(call: StepCall, plan: Plan | None, gradients: Gradients, numbers: dict[str, float]) -> Agreed:
    """Exchange the step header; return what exists on any replica, and the items of all.

    Args:
        call: the step.
        plan: of its list; None where nothing is communicated.
        gradients: this replica's.
        numbers: what was evaluated for this step, and must agree.

    Raises:
        InvalidArgumentError: gradients of no items that are not zero, on all replicas.
    """
    mine, items = gradients.kinds, gradients.items
    strategy = call.strategy
    if plan is None or strategy is None or not call.has_header:
        return Agreed(mine, items)
    communicator, replica = plan.communicator, call.replica
    training, state_check = call.engine.training, call.engine.state_check
    step = int(training.iterations.storage.array)
    if training.loss_scale is not None:
        numbers = numbers | {"loss_scale": training.loss_scale.factor}
    named = as_bytes(" ".join([call.name, *numbers]))
    header = call.header(gradients.listing, call.name, step, numbers)
    brought = Brought(
        call_digest=plan.digests.get(gradients.listing)
        or plan.call_digest(gradients.listing, call.optimizer_description),
        hyper_digest=digest(named + struct.pack(f"<{len(numbers)}d", *numbers.values())),
        presence=digest(bytes(mine)),
        items=items,
        flags=Flag.STOP if replica.stop_requested else 0,
    )
    if call.observers is not None:
        call.observers.tell(Moment.HEADER, None)
    every = strategy.checks.state_every
    is_checked = every > 0 and step >= every and state_check.is_due(strategy)
    if is_checked:
        if call.shares:
            agree(communicator, header, brought)  # when all have come, nobody writes what is looked at now
        brought.state, changed = state_check.digest(strategy, gradients.listing, call.family.state())
        brought.flags |= changed
    agreement = agree(communicator, header, brought)
    if any(agreement.flags):
        replica.stop_agreed = any(flags & Flag.STOP for flags in agreement.flags)
    if is_checked:
        state_check.compare(strategy, gradients.listing, call.family.state(), agreement)
    total = None if items is None else float(np.sum(agreement.items))
    if total == 0:
        _refuse_gradients_of_nothing(communicator, gradients, step)
    if not agreement.presence_differs:
        return Agreed(mine, total)
    table = np.array([list(row) for row in exchange_bytes(communicator, bytes(mine))], np.uint8)
    # Dense on one replica: dense on all. Sparse on some and absent on others: sparse.
    return Agreed(bytearray(np.where((table == DENSE).any(0), DENSE, table.max(0)).tolist()), total)


def _refuse_gradients_of_nothing(communicator: Communicator, gradients: Gradients, step: int) -> None:
    slab = gradients.slab
    brought = {
        k: gradients.sparse[k].values if kind == SPARSE else gradients.views[k]
        for k, kind in enumerate(gradients.kinds)
        if kind in (DENSE, SPARSE)
    }
    names = " ".join(repr(slab.variables[k].name) for k, values in brought.items() if values.any())
    everybodys = exchange_texts(communicator, names)
    if any(everybodys):
        found = "; ".join(f"replica {r}: {row}" for r, row in enumerate(everybodys) if row)
        raise InvalidArgumentError(
            f"step {step}: items=0 on all replicas, so there is nothing to divide by, and gradients are not zero "
            f"(seen on {found}). Count the items that the summed loss is over; a term that is there without any (a "
            "penalty) is multiplied by this replica's items"
        )
