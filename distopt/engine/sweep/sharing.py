"""Shared mode: parameters and slots that exist once per node, and what it takes to write and read them whole.

Every element has one owner among all replicas, which updates it. Each node has all parameters; of the slots it keeps
up to date what its own replicas own (ZeRO, stage 1), until ``complete_slots`` collects the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distopt.arguments import hook_name
from distopt.arrays import Array
from distopt.distribute.agreement.header import Call, agree
from distopt.distribute.node.node import Node
from distopt.distribute.node.node_sum import Spread
from distopt.distribute.strategy import Strategy
from distopt.engine.state.inspection import inspects
from distopt.errors import InvalidArgumentError
from distopt.memory.digests import digest
from distopt.memory.flat_buffer import FlatBuffer
from distopt.slabs.slab import Slab
from distopt.variables.variable import Variable

if TYPE_CHECKING:
    from distopt.optimizers.common.base import BaseOptimizer


class SharedByNode:
    """Who shares a home: the replicas of a node, those of the other nodes having the same in theirs.

    Args:
        node: this replica's node.
    """

    def __init__(self, node: Node) -> None:
        self.node = node

    def write(self, name: str, target: Array, value: Array) -> None:
        """Give all replicas of the job a new value: all call it, with the same."""
        agree(self.node.communicator, Call(f"assignment to {name!r}", lambda: {"value (digest)": digest([value])}))
        if self.node.place == 0:
            target[...] = value
        self.node.barrier()


def check_sharing(optimizer: BaseOptimizer, strategy: Strategy, slab: Slab, *, aggregates: bool) -> None:
    """Refuse what can't be done when nobody has all gradients, or parameters of its own.

    Raises:
        InvalidArgumentError: something that needs private parameters; variables that other replicas share.
    """
    if not strategy.shares_parameters:
        if any(home.shared_by is not None for home in slab.homes):
            raise InvalidArgumentError(
                "these variables exist once per node (update='shared'), and this step is under another strategy, in "
                "which every replica would update all of them: do it under the strategy of their first step"
            )
        return
    what = (
        _what_needs_private(optimizer, slab, inspects=inspects(optimizer, strategy))
        if aggregates
        else "experimental_aggregate_gradients=False"
    )
    if what is not None:
        raise InvalidArgumentError(
            f"{what} needs parameters of each replica's own, and with update='shared' they exist once per node, where "
            "every replica sums and updates only its part: use Strategy(update='replicated')"
        )
    for home in slab.homes:
        if home.shared_by is not None and home.shared_by.node is not strategy.node():
            raise InvalidArgumentError(
                "these variables are shared by the replicas of another Strategy: go on with the object that their "
                "first step was done under"
            )
        if not home.shareable:
            names = [variable.name for variable in slab.variables if variable.storage.buffer is home]
            raise InvalidArgumentError(
                f"variables {names} were placed by an optimizer that was not under update='shared', and memory is "
                "placed once: make their first optimizer, and do its first step, under this strategy"
            )


def _what_needs_private(optimizer: BaseOptimizer, slab: Slab, *, inspects: bool) -> str | None:
    if not optimizer._sums_flat:
        return f"gradient_aggregator={hook_name(optimizer._aggregator)}"
    if optimizer._transformers:
        return f"gradient_transformers={list(map(hook_name, optimizer._transformers))}"
    if not optimizer._updates_flat:
        return f"{type(optimizer).__name__}, which updates by a method of its own,"
    if optimizer._clipping.needs_stages(inspects=inspects):
        return "a limit on norms after another limit" + " (with on_nonfinite or a receipt)" * inspects
    if slab.has_duplicates:
        return "a list in which a variable stands twice"
    for variable in slab.variables:
        if variable.constraint is not None and not getattr(variable.constraint, "elementwise", False):
            return f"the constraint {hook_name(variable.constraint)} of variable {variable.name!r}"
    return None


def share_state(optimizer: BaseOptimizer, slab: Slab, node: Node) -> None:
    """Make parameters and slots those of the node's first replica, where they are not yet (collective).

    Raises:
        NoSharedMemoryError: there is no room.
    """
    homes = [home for home in slab.homes if home.shared_by is None]
    slots = [key for key in optimizer._slot_segments if key not in optimizer._shared_slots]
    agree(
        node.communicator,
        Call(f"sharing of parameters and slots by {type(optimizer).__name__}", lambda: _layout(slab, homes, slots)),
    )
    node.unite([home.segment for home in homes] + [optimizer._slot_segments[key] for key in slots])
    for home in homes:
        home.shared_by = SharedByNode(node)
        home.own = home.owned(node.communicator.size)[node.communicator.index]
    optimizer._shared_slots.update(dict.fromkeys(slots, node))


def _layout(slab: Slab, homes: Sequence[FlatBuffer], slots: Sequence[tuple[FlatBuffer, str]]) -> dict[str, str]:
    """What must be equal where memory becomes one: each variable has the same place in it."""
    places = [f"{v.name} in buffer {slab.homes.index(v.storage.buffer)} at {v.storage.start}" for v in slab.variables]
    return {
        "places of variables (the first call of build, gradient_buffers or a step settles them)": ", ".join(places),
        "buffers": ", ".join(f"{home.flat.dtype.name}[{home.length}]" for home in homes),
        "slots": ", ".join(f"{label}[{home.length}]" for home, label in slots),
    }


def shared_slots(optimizer: BaseOptimizer) -> set[Variable]:
    """Return the slots that are the node's."""
    table = optimizer._slot_table.items()
    return {slot for (variable, label), slot in table if (variable.storage.buffer, label) in optimizer._shared_slots}


def complete_slots(optimizer: BaseOptimizer) -> None:
    """Bring what other nodes own of the slots to this one (collective); nothing to do on one node."""
    for key, node in optimizer._shared_slots.items():
        flat = optimizer._slot_flats[key]
        owned = key[0].owned(node.communicator.size)
        Spread(node, [[flat[begin:end] for begin, end in ranges] for ranges in owned], once=True)()
    leave_state(optimizer)


def leave_state(optimizer: BaseOptimizer) -> None:
    """Wait until the node's other replicas have read or written as much."""
    for node in _nodes(optimizer._shared_slots.values()):
        node.barrier()


def agree_on_state(optimizer: BaseOptimizer, call: str, arrays: Iterable[Any] = ()) -> None:
    """In shared mode, agree with all replicas on reading or writing the whole state."""
    for node in _nodes(optimizer._shared_slots.values()):
        agree(
            node.communicator,
            Call(f"{call} of {type(optimizer).__name__}", lambda: {"values (digest)": digest(map(np.asarray, arrays))}),
        )


def _nodes(nodes: Iterable[Node]) -> list[Node]:
    return list(dict.fromkeys(nodes))
