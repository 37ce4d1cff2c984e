"""Shared mode: parameters and slots that exist once per node, and what it takes to write and read them whole.

Every element has one owner among all replicas, which updates it. Each node has all parameters; of the slots it keeps
up to date what its own replicas own (ZeRO, stage 1), until ``complete_slots`` collects the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from distopt.arguments import hook_name
from distopt.arrays import Array
from distopt.distribute.agreement.header import Call, agree
from distopt.distribute.node.node import Node
from distopt.distribute.node.node_sum import Spread
from distopt.distribute.strategy import Strategy
from distopt.engine.state.family import Family
from distopt.engine.state.options import StepOptions
from distopt.engine.state.slot_store import Key, SlotStore
from distopt.errors import InvalidArgumentError
from distopt.memory.digests import digest
from distopt.memory.flat_buffer import FlatBuffer
from distopt.slabs.listing import Listing
from distopt.slabs.slab import Slab


class SharedByNode:
    """The replicas of a node, which share the parameters of a buffer; those of other nodes have the same in theirs.

    Args:
        node: this replica's node.
    """

    def __init__(self, node: Node) -> None:
        self.node = node

    def write(self, name: str, target: Array, value: Array) -> None:
        """Give all replicas of the job a new value: all call it, with the same."""
        agree(self.node.communicator, Call(f"assignment to {name!r}", lambda: {"value (digest)": digest([value])}))
        if self.node.index_on_node == 0:
            target[...] = value
        self.node.barrier()


class SharedSlot:
    """The replicas that share one slot: each replica of the job writes what it owns of the slot.

    Args:
        node: this replica's node.
        ranges: the (begin, end) of what this replica owns, in the slot.
    """

    def __init__(self, node: Node, ranges: Sequence[tuple[int, int]]) -> None:
        self._node, self._ranges = node, ranges

    def write(self, name: str, target: Array, value: Array) -> None:
        """Give the slot a new value: all replicas call it, with the same; what others own may be an old value."""

        def describe() -> dict[str, str]:
            return {"value (digest)": digest([value])} if self._node.is_whole_job else {}

        agree(self._node.communicator, Call(f"assignment to {name!r}", describe))
        for begin, end in self._ranges:
            target.reshape(-1)[begin:end] = value.reshape(-1)[begin:end]
        self._node.barrier()


def needs_whole_sum(options: StepOptions, family: Family, listing: Listing, *, looks: bool) -> str | None:
    """Return what has to see the whole sum, as a message says it; None where a step can go block by block.

    Args:
        options: of the step.
        family: what updates.
        listing: the list of the step.
        looks: whether the sums are looked at, before they are clipped by value.
    """
    if methods := family.methods():
        return f"{family.kind}, whose {methods} sees the whole sum,"
    if not options.sums_flat:
        return f"gradient_aggregator={hook_name(options.aggregator)}"
    if options.transformers:
        return f"gradient_transformers={list(map(hook_name, options.transformers))}"
    if not family.updates_flat:
        return f"{family.kind}, which updates by a method of its own,"
    if options.clipping.needs_stages(inspects=looks):
        return "a limit on norms after another limit" + " (with on_nonfinite or a receipt)" * looks
    if listing.has_duplicates:  # it is updated in the order of the list, once per appearance
        return "a list in which a variable stands twice"
    return None


def check_sharing(strategy: Strategy, listing: Listing, needs_private: str | None) -> None:
    """Refuse what can't be done when nobody has all gradients, or parameters of its own.

    Args:
        strategy: the current one.
        listing: the list of the step.
        needs_private: what of the step needs each replica's own parameters, or None.

    Raises:
        InvalidArgumentError: something that needs private parameters; variables that other replicas share.
    """
    if not strategy.shares_parameters:
        if any(buffer.shared_by is not None for buffer in listing.buffers):
            raise InvalidArgumentError(
                "these variables exist once per node (update='shared'), and this step is under another strategy, in "
                "which every replica would update all of them: do it under the strategy of their first step"
            )
        return
    what = needs_private or _constraint_of_whole(listing)
    if what is not None:
        raise InvalidArgumentError(
            f"{what} needs parameters of each replica's own, and with update='shared' they exist once per node, where "
            "every replica sums and updates only its part: use Strategy(update='replicated')"
        )
    for buffer in listing.buffers:
        if buffer.shared_by is not None and buffer.shared_by.node is not strategy.node():
            raise InvalidArgumentError(
                "these variables are shared by the replicas of another Strategy: go on with the object that their "
                "first step was done under"
            )
        if not buffer.shareable:
            names = [variable.name for variable in listing.variables if variable.storage.buffer is buffer]
            raise InvalidArgumentError(
                f"variables {names} were placed by an optimizer that was not under update='shared', and memory is "
                "placed once: make their first optimizer, and do its first step, under this strategy"
            )


def _constraint_of_whole(listing: Listing) -> str | None:
    for variable in listing.variables:
        if variable.constraint is not None and not getattr(variable.constraint, "elementwise", False):
            return f"the constraint {hook_name(variable.constraint)} of variable {variable.name!r}"
    return None


def share_state(kind: str, slots: SlotStore, slab: Slab, node: Node) -> None:
    """Make parameters and slots those of the node's first replica, where they are not yet (collective).

    Raises:
        NoSharedMemoryError: there is no room.
    """
    buffers = [buffer for buffer in slab.buffers if buffer.shared_by is None]
    keys = [key for key in slots.segments if key in slots.not_shared or (key[0] in buffers and key not in slots.shared)]
    agree(node.communicator, Call(f"sharing of parameters and slots by {kind}", lambda: _layout(slab, buffers, keys)))
    node.unite([buffer.segment for buffer in buffers] + [slots.segments[key] for key in keys])
    for buffer in buffers:
        buffer.share(SharedByNode(node), buffer.split_among(node.communicator.size)[node.communicator.index])
    slots.shared.update(dict.fromkeys(keys, node))
    mark_shared_slots(slots, node)


def mark_shared_slots(slots: SlotStore, node: Node) -> None:
    """Let all replicas write the slots that are the node's together; local."""
    for variable, slot in slots.pop_unmarked():
        start = variable.storage.start
        parts = variable.storage.allocated_buffer.parts(start, variable.size)
        slot.storage.share(SharedSlot(node, [(begin - start, end - start) for begin, end in parts]))


def _layout(slab: Slab, buffers: Sequence[FlatBuffer], slots: Sequence[Key]) -> dict[str, str]:
    """Describe what must be equal where memory becomes one: each variable has the same place in it."""
    places = [
        f"{v.name} in buffer {slab.buffers.index(v.storage.allocated_buffer)} at {v.storage.start}"
        for v in slab.variables
    ]
    return {
        "places of variables (the first call of build, gradient_buffers or a step settles them)": ", ".join(places),
        "buffers": ", ".join(f"{buffer.flat.dtype.name}[{buffer.length}]" for buffer in buffers),
        "slots": ", ".join(f"{label}[{buffer.length}]" for buffer, label in slots),
    }


def complete_slots(slots: SlotStore) -> None:
    """Bring what other nodes own of the slots to this one (collective); nothing to do on one node."""
    for key, node in slots.shared.items():
        flat, owned = slots.flats[key], key[0].split_among(node.communicator.size)
        Spread(node, [[flat[begin:end] for begin, end in ranges] for ranges in owned], once=True)()
    slots.node_barrier()


def agree_on_state(slots: SlotStore, call: str, arrays: Iterable[Any] = ()) -> None:
    """In shared mode, agree with all replicas on reading or writing the whole state.

    Args:
        slots: the state.
        call: what is done to it, as a message says it.
        arrays: the values that are written.
    """
    for node in slots.nodes:
        agree(node.communicator, Call(call, lambda: {"values (digest)": digest(map(np.asarray, arrays))}))
