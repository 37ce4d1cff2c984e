"""Updating by rules: one kernel call for many variables, their slots beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distopt.engine.engine import Engine
from distopt.engine.state.family import RuleCall
from distopt.engine.state.slot_store import ranges_to_spans
from distopt.kernels import Rule, update
from distopt.memory.flat_buffer import FlatBuffer
from distopt.slabs.gradients import Gradients
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable

DType = np.dtype[Any]

DECAYED, MASTERED = 1, 2
"""How a variable's update differs from the rule: its weights decay; it has an exact copy in float32."""


class RuleUpdates:
    """What a built-in optimizer is to the engine: a rule, the labels of its slots, and its scalars."""

    _engine: Engine

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
        """Make a slot, parallel to its variable: one flat buffer per buffer of variables and label."""
        slot = Variable(value, name=name, dtype=self._slot_dtype(variable), trainable=False)
        self._engine.slots.add(variable, label, slot)
        return slot

    def _variant_of(self, variable: Variable) -> int:
        """DECAYED and MASTERED, or 0."""
        return 0

    def _call(self, home: FlatBuffer, variant: int, scalars: Sequence[float]) -> RuleCall:
        """Return rule, slots and scalars of the variables of one buffer that are updated alike."""
        flats = self._engine.slots.flats
        return self._known_rule(), [flats[home, label] for label in self._slot_labels()], scalars

    def _step_call(self, home: FlatBuffer, variant: int) -> RuleCall:
        """Return the same, with the scalars of this step."""
        return self._call(home, variant, self._step_scalars(home.flat.dtype))

    def _step_scalars(self, dtype: DType) -> Sequence[float]:
        """The values of the rule's scalars in this step."""
        raise NotImplementedError

    def _update_flat(self, gradients: Gradients, entries: Sequence[int]) -> None:
        """Update by dense gradients, which lie in the slab: one kernel call per buffer."""
        flats = gradients.slab.flats
        for home, variant, spans in gradients.slab.update_tables(entries):
            rule, slots, scalars = self._step_call(home, variant)
            update(rule, home.flat, flats[home.flat.dtype], slots, scalars, spans)

    def _update_one(self, variable: Variable, gradient: Any, scalars: Sequence[float], variant: int = 0) -> None:
        """Update one variable by a dense gradient: the bits of ``_update_flat``."""
        home, start = variable.storage.buffer, variable.storage.start
        flat = np.ascontiguousarray(gradient, variable.dtype).reshape(-1)
        spans = ranges_to_spans(home.parts(start, variable.size), start)
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
