"""Updating by rules: slots in arenas parallel to their variables, one kernel call for many variables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distopt.arrays import Array
from distopt.distribute.node.node import Node
from distopt.distribute.strategy import get_strategy
from distopt.kernels import Rule, decayed, mastered, update
from distopt.memory.arena import place
from distopt.memory.flat_buffer import FlatBuffer
from distopt.memory.segment import Segment
from distopt.slabs.slab import Gradients, Slab
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable

DType = np.dtype[Any]

DECAYED, MASTERED = 1, 2
"""How a variable's update differs from the rule: its weights decay; it has an exact copy in float32."""


class RuleUpdates:
    """What a built-in optimizer is to the engine: a rule, the labels of its slots, and its scalars."""

    def __init__(self) -> None:
        self._slot_flats: dict[tuple[FlatBuffer, str], Array] = {}
        self._slot_segments: dict[tuple[FlatBuffer, str], Segment | None] = {}
        self._shared_slots: dict[tuple[FlatBuffer, str], Node] = {}
        """The slots that are those of a node."""
        self._slot_table: dict[tuple[Variable, str], Variable] = {}
        self._step_decay = 0.0
        """The fraction of a decaying weight that this step takes from it."""

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

    def _slot_dtype(self, variable: Variable) -> DType:
        return variable.dtype

    def _new_slot(self, variable: Variable, label: str, name: str, value: Any) -> Variable:
        """Make a slot in the arena, parallel to its variable: one flat buffer per home and label."""
        slot = Variable(value, name=name, dtype=self._slot_dtype(variable), trainable=False)
        self._slot_table[variable, label] = slot
        self._place_slot(variable, label, slot)
        return slot

    def _place_slot(self, variable: Variable, label: str, slot: Variable) -> None:
        place([variable], shareable=get_strategy().shares_parameters)
        home: FlatBuffer = variable.storage.buffer
        key = home, label
        if key not in self._slot_flats:
            number = sum(other is home for other, _ in self._slot_flats)
            self._slot_flats[key], self._slot_segments[key] = home.parallel(number, slot.dtype)
        flat = self._slot_flats[key]
        start = variable.storage.start
        slot.storage.move_to(flat[start : start + variable.size].reshape(variable.shape))

    def _variant_of(self, variable: Variable) -> int:
        """DECAYED and MASTERED, or 0."""
        return 0

    def _call(
        self, home: FlatBuffer, variant: int, scalars: Sequence[float]
    ) -> tuple[Rule, list[Array], Sequence[float]]:
        """Rule, slots and scalars of the variables of one home that are updated alike."""
        rule, labels = self._known_rule(), self._slot_labels()
        if variant & DECAYED:
            rule, scalars = decayed(rule), (*scalars, self._step_decay)
        if variant & MASTERED:
            rule, labels = mastered(rule), (*labels, "master")
        return rule, [self._slot_flats[home, label] for label in labels], scalars

    def _step_scalars(self, dtype: DType) -> Sequence[float]:
        """The values of the rule's scalars in this step."""
        raise NotImplementedError

    def _spans(self, slab: Slab, entries: Sequence[int]) -> list[tuple[FlatBuffer, int, Array]]:
        """The (start in parameter, start in gradient, length) tables of some entries, by home and variant."""
        key = b"all" if entries is slab.all_entries else np.asarray(entries, np.int64).tobytes()
        if key not in slab.tables:
            if len(slab.tables) > 64:
                slab.tables.clear()
            groups: dict[tuple[FlatBuffer, int], list[int]] = {}
            for k in entries:
                groups.setdefault((slab.variables[k].storage.buffer, slab.variants[k]), []).append(k)
            slab.tables[key] = [(*group, _table(slab, members)) for group, members in groups.items()]
        tables: list[tuple[FlatBuffer, int, Array]] = slab.tables[key]
        return tables

    def _update_flat(self, gradients: Gradients, entries: Sequence[int]) -> None:
        """Update by dense gradients, which lie in the slab: one kernel call per home."""
        flats = gradients.slab.flats
        for home, variant, spans in self._spans(gradients.slab, entries):
            dtype = home.flat.dtype
            rule, slots, scalars = self._call(home, variant, self._step_scalars(dtype))
            update(rule, home.flat, flats[dtype], slots, scalars, spans)

    def _update_one(self, variable: Variable, gradient: Any, scalars: Sequence[float], variant: int = 0) -> None:
        """Update one variable by a dense gradient: the bits of ``_update_flat``."""
        home, start = variable.storage.buffer, variable.storage.start
        flat = np.ascontiguousarray(gradient, variable.dtype).reshape(-1)
        parts = home.parts(start, variable.size)
        spans = np.array([(begin, begin - start, end - begin) for begin, end in parts], np.int64).reshape(-1, 3)
        rule, slots, scalars = self._call(home, variant, scalars)
        update(rule, home.flat, flat, slots, scalars, spans)

    def _update_slots_and_rows(self, variable: Variable, slices: IndexedSlices, scalars: Sequence[float]) -> None:
        """Update all rows of the slots, and those of the variable that a sparse gradient names."""
        home, start = variable.storage.buffer, variable.storage.start
        stays = np.ones(variable.shape, bool)
        stays[slices.indices] = False
        parts = home.parts(start, variable.size)
        before = [home.flat[begin:end].copy() for begin, end in parts]
        self._update_one(variable, slices.to_dense(), scalars)
        for (begin, end), old in zip(parts, before, strict=True):
            np.copyto(home.flat[begin:end], old, where=stays.reshape(-1)[begin - start : end - start])

    def _update_rows(self, variable: Variable, slices: IndexedSlices, scalars: Sequence[float]) -> None:
        """Update the rows that a sparse gradient without repeated rows names, in the variable and its slots."""
        home, start = variable.storage.buffer, variable.storage.start
        width = int(np.prod(variable.shape[1:]))
        where = (start + slices.indices[:, None] * width + np.arange(width)).reshape(-1)
        values = np.ascontiguousarray(slices.values, variable.dtype).reshape(-1)
        if home.own is not None:
            mine = np.zeros(where.size, bool)
            for begin, end in home.own:
                mine |= (begin <= where) & (where < end)
            where, values = where[mine], values[mine]
        rule, slots, scalars = self._call(home, 0, scalars)
        flats = [home.flat, *slots]
        rows = [flat[where] for flat in flats]
        update(rule, rows[0], values, rows[1:], scalars, np.array([[0, 0, where.size]], np.int64))
        for flat, row in zip(flats, rows, strict=True):
            flat[where] = row


def constrain(variable: Variable) -> None:
    """Replace a variable by what its constraint makes of it."""
    if variable.constraint is None:
        return
    home, start = variable.storage.home, variable.storage.start
    if home is None or home.own is None:
        variable.assign(variable.constraint(variable.storage.array))
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


def _table(slab: Slab, entries: Sequence[int]) -> Array:
    rows = [(slab.variables[k].storage.start, slab.starts[k], slab.variables[k].size) for k in entries]
    return np.array(rows, np.int64)
