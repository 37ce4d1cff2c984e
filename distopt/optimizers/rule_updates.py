"""Updating by rules: slots in arenas parallel to their variables, one kernel call for many variables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distopt.arena import Home, place
from distopt.arrays import Array
from distopt.distribute.node import Node
from distopt.distribute.strategy import get_strategy
from distopt.indexed_slices import IndexedSlices
from distopt.kernels import Rule, update
from distopt.shared_memory import Segment
from distopt.slab import Gradients, Slab
from distopt.variable import Variable

DType = np.dtype[Any]


class RuleUpdates:
    """What a built-in optimizer is to the engine: a rule, the labels of its slots, and its scalars."""

    def __init__(self) -> None:
        self._slot_flats: dict[tuple[Home, str], Array] = {}
        self._slot_segments: dict[tuple[Home, str], Segment | None] = {}
        self._shared_slots: dict[tuple[Home, str], Node] = {}
        """The slots that are those of a node."""
        self._slot_table: dict[tuple[Variable, str], Variable] = {}

    def _rule(self) -> Rule | None:
        """The update rule; None where a class updates by methods of its own."""
        return None

    def _slot_labels(self) -> tuple[str, ...]:
        return ()

    def _known_rule(self) -> Rule:
        rule = self._rule()
        if rule is None:
            raise NotImplementedError(
                f"{type(self).__name__} has no update of its own, and this one must be overridden"
            )
        return rule

    def _new_slot(self, variable: Variable, label: str, name: str, value: Any) -> Variable:
        """Make a slot in the arena, parallel to its variable: one flat buffer per home and label."""
        slot = Variable(value, name=name, dtype=variable.dtype, trainable=False)
        self._slot_table[variable, label] = slot
        self._place_slot(variable, label, slot)
        return slot

    def _place_slot(self, variable: Variable, label: str, slot: Variable) -> None:
        place([variable], shareable=get_strategy().shares_parameters)
        home: Home = variable._arena
        key = home, label
        if key not in self._slot_flats:
            number = sum(other is home for other, _ in self._slot_flats)
            self._slot_flats[key], self._slot_segments[key] = home.parallel(number)
        flat = self._slot_flats[key]
        slot._place(flat[variable._start : variable._start + variable.size].reshape(variable.shape))

    def _slots_in(self, home: Home) -> list[Array]:
        return [self._slot_flats[home, label] for label in self._slot_labels()]

    def _step_scalars(self, dtype: DType) -> Sequence[float]:
        """The values of the rule's scalars in this step."""
        raise NotImplementedError

    def _update_flat(self, gradients: Gradients, entries: Sequence[int]) -> None:
        """Update by dense gradients, which lie in the slab: one kernel call per home."""
        slab, rule = gradients.slab, self._known_rule()
        for home, dtype, spans in _spans_by_home(slab, entries):
            update(rule, home.flat, slab.flats[dtype], self._slots_in(home), self._step_scalars(dtype), spans)

    def _update_one(self, variable: Variable, gradient: Any, scalars: Sequence[float]) -> None:
        """Update one variable by a dense gradient: the bits of ``_update_flat``."""
        home, start = variable._arena, variable._start
        flat = np.ascontiguousarray(gradient, variable.dtype).reshape(-1)
        parts = home.parts(start, variable.size)
        spans = np.array([(begin, begin - start, end - begin) for begin, end in parts], np.int64).reshape(-1, 3)
        update(self._known_rule(), home.flat, flat, self._slots_in(home), scalars, spans)

    def _update_rows(self, variable: Variable, slices: IndexedSlices, scalars: Sequence[float]) -> None:
        """Update the rows that a sparse gradient without repeated rows names, in the variable and its slots."""
        home, start = variable._arena, variable._start
        width = int(np.prod(variable.shape[1:]))
        where = (start + slices.indices[:, None] * width + np.arange(width)).reshape(-1)
        values = np.ascontiguousarray(slices.values, variable.dtype).reshape(-1)
        if home.own is not None:
            mine = np.zeros(where.size, bool)
            for begin, end in home.own:
                mine |= (begin <= where) & (where < end)
            where, values = where[mine], values[mine]
        flats = [home.flat, *self._slots_in(home)]
        rows = [flat[where] for flat in flats]
        update(self._known_rule(), rows[0], values, rows[1:], scalars, np.array([[0, 0, where.size]], np.int64))
        for flat, row in zip(flats, rows, strict=True):
            flat[where] = row


def constrain(variable: Variable) -> None:
    """Replace a variable by what its constraint makes of it."""
    if variable.constraint is None:
        return
    home, start = variable._arena, variable._start
    if home is None or home.own is None:
        variable.assign(variable.constraint(variable._array))
        return
    for begin, end in home.parts(start, variable.size):
        home.flat[begin:end] = variable.constraint(home.flat[begin:end])  # an elementwise one: the others are refused


def rounds(gradients: Gradients) -> Iterator[Sequence[int]]:
    """Cut the entries so that no variable stands twice in a part: a repeated one is updated once per appearance."""
    if not gradients.slab.has_duplicates:
        yield gradients.entries
        return
    part: list[int] = []
    seen: set[int] = set()
    for k in gradients.entries:
        variable = id(gradients.slab.variables[k])
        if variable in seen:
            yield part
            part, seen = [], set()
        part.append(k)
        seen.add(variable)
    yield part


def _spans_by_home(slab: Slab, entries: Sequence[int]) -> list[tuple[Home, DType, Array]]:
    """The (start in parameter, start in gradient, length) tables of some entries, one per home."""
    key = b"all" if entries is slab.all_entries else np.asarray(entries, np.int64).tobytes()
    if key not in slab.tables:
        if len(slab.tables) > 64:
            slab.tables.clear()
        groups: dict[Home, list[int]] = {}
        for k in entries:
            groups.setdefault(slab.variables[k]._arena, []).append(k)
        slab.tables[key] = [(home, home.flat.dtype, _table(slab, members)) for home, members in groups.items()]
    tables: list[tuple[Home, DType, Array]] = slab.tables[key]
    return tables


def _table(slab: Slab, entries: Sequence[int]) -> Array:
    rows = [(slab.variables[k]._start, slab.starts[k], slab.variables[k].size) for k in entries]
    return np.array(rows, np.int64)
