"""The slots of an optimizer: flat buffers parallel to those of the variables, one for each label."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from distopt.arrays import Array
from distopt.distribute.node.node import Node
from distopt.distribute.strategy import get_strategy
from distopt.memory.arena import allocate
from distopt.memory.flat_buffer import FlatBuffer
from distopt.memory.segment import Segment
from distopt.variables.variable import Variable

Key: TypeAlias = "tuple[FlatBuffer, str]"
"""The slots of one label of all variables in one flat buffer."""


class SlotStore:
    """State per variable (moments, exact copies, averages), laid out like the variables themselves."""

    def __init__(self) -> None:
        self.table: dict[tuple[Variable, str], Variable] = {}
        """The slot of a variable, by label."""
        self.flats: dict[Key, Array] = {}
        self.segments: dict[Key, Segment | None] = {}
        self.shared: dict[Key, Node] = {}
        """The slots that are those of a node, not of one replica."""
        self._unmarked: list[tuple[Variable, str]] = []

    def add(self, variable: Variable, label: str, slot: Variable) -> None:
        """Move a slot to where its variable's slots of this label lie."""
        self.table[variable, label] = slot
        allocate([variable], shareable=get_strategy().shares_parameters)
        buffer = variable.storage.allocated_buffer
        key = buffer, label
        if key not in self.flats:
            number = sum(other is buffer for other, _ in self.flats)
            self.flats[key], self.segments[key] = buffer.parallel(number, slot.dtype)
        start = variable.storage.start
        target = self.flats[key][start : start + variable.size].reshape(variable.shape)
        if key in self.shared:
            slot.storage.adopt(target, buffer.parts(start, variable.size), start)
        else:
            slot.storage.move_to(target)
        self._unmarked.append((variable, label))

    def of(self, variable: Variable) -> list[tuple[str, Variable]]:
        """Return the labels and slots of one variable."""
        return [(label, slot) for (owner, label), slot in self.table.items() if owner is variable]

    @property
    def not_shared(self) -> list[Key]:
        """The keys of the slots that every replica has for itself, though their variables are the node's."""
        return [key for key in self.segments if key not in self.shared and key[0].shared_by is not None]

    def pop_unmarked(self) -> list[tuple[Variable, Variable]]:
        """Return the variables and slots that are the node's, and whose slots have not been told so; once."""
        found, rest = [], []
        for variable, label in self._unmarked:
            if (variable.storage.allocated_buffer, label) in self.shared:
                found.append((variable, self.table[variable, label]))
            else:
                rest.append((variable, label))
        self._unmarked = rest
        return found

    def shared_variables(self) -> set[Variable]:
        """Return the slots that are the node's."""
        return {
            slot for (variable, label), slot in self.table.items() if (variable.storage.buffer, label) in self.shared
        }

    @property
    def nodes(self) -> list[Node]:
        """The nodes that share slots."""
        return list(dict.fromkeys(self.shared.values()))

    def node_barrier(self) -> None:
        """Wait until the replicas of the node have all read, or written, the shared slots."""
        for node in self.nodes:
            node.barrier()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the memory: it is made anew."""
        return {"table": self.table}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]  # the same empty store
        for (variable, label), slot in state["table"].items():
            self.add(variable, label, slot)


def ranges_to_spans(ranges: list[tuple[int, int]], start: int) -> Array:
    """Return (begin in the buffer, begin in the variable, length) for ranges of a buffer."""
    return np.array([(begin, begin - start, end - begin) for begin, end in ranges], np.int64).reshape(-1, 3)
