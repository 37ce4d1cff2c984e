"""Updates variables by rules: kernel calls on variables and their slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from distopt.engine.state.family import RuleCall
from distopt.engine.state.slot_store import ranges_to_spans
from distopt.errors import InvalidArgumentError
from distopt.kernels import Rule, update
from distopt.memory.flat_buffer import FlatBuffer
from distopt.slabs.gradients import Gradients
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable

DECAYED, MASTERED = 1, 2
"""The two differences from the rule that a variable's update may have: weight decay, and an exact copy in float32."""


def named_scalars(owner: str, rule: Rule, scalars: Sequence[float]) -> dict[str, float]:
    """Return the scalars of a user's rule by their names.

    Raises:
        InvalidArgumentError: another number of them than the rule has.
    """
    if len(scalars) != len(rule.scalars):
        raise InvalidArgumentError(
            f"{owner}: the rule {rule.name!r} has the scalars {rule.scalars}, and {len(scalars)} values came for them: "
            "return as many, in this order"
        )
    return {name: float(value) for name, value in zip(rule.scalars, scalars, strict=True)}


def update_flat(gradients: Gradients, entries: Sequence[int], call_on: Callable[[FlatBuffer, int], RuleCall]) -> None:
    """Update variables by dense gradients, which lie in the slab: one kernel call per buffer and variant.

    Args:
        gradients: the gradients of the step.
        entries: the numbers of the dense gradients that take part.
        call_on: function that returns rule, slots and scalars of the variables of one buffer and variant.
    """
    flats = gradients.slab.flats
    for buffer, variant, spans in gradients.slab.update_tables(entries):
        rule, slots, scalars = call_on(buffer, variant)
        update(rule, buffer.flat, flats[buffer.flat.dtype], slots, scalars, spans)


def update_one(variable: Variable, gradient: Any, call: RuleCall) -> None:
    """Update one variable by a dense gradient, with the same bits as ``update_flat``."""
    buffer, start = variable.storage.allocated_buffer, variable.storage.start
    flat = np.ascontiguousarray(gradient, variable.dtype).reshape(-1)
    spans = ranges_to_spans(buffer.parts(start, variable.size), start)
    rule, slots, scalars = call
    update(rule, buffer.flat, flat, slots, scalars, spans)


def update_slots_and_rows(variable: Variable, slices: IndexedSlices, call: RuleCall) -> None:
    """Update all rows of the slots, but of the variable only the rows that a sparse gradient names."""
    buffer, start = variable.storage.allocated_buffer, variable.storage.start
    stays = np.ones(variable.shape, bool)
    stays[slices.indices] = False
    parts = buffer.parts(start, variable.size)
    before = [buffer.flat[begin:end].copy() for begin, end in parts]
    update_one(variable, slices.to_dense(), call)
    for (begin, end), old in zip(parts, before, strict=True):
        np.copyto(buffer.flat[begin:end], old, where=stays.reshape(-1)[begin - start : end - start])


def update_rows(variable: Variable, slices: IndexedSlices, call: RuleCall) -> None:
    """Update the rows that a sparse gradient without repeated rows names, in the variable and its slots."""
    buffer, start = variable.storage.allocated_buffer, variable.storage.start
    width = int(np.prod(variable.shape[1:]))
    where = (start + slices.indices[:, None] * width + np.arange(width)).reshape(-1)
    values = np.ascontiguousarray(slices.values, variable.dtype).reshape(-1)
    if buffer.owned_ranges is not None:
        mine = np.zeros(where.size, bool)
        for begin, end in buffer.owned_ranges:
            mine |= (begin <= where) & (where < end)
        where, values = where[mine], values[mine]
    rule, slots, scalars = call
    flats = [buffer.flat, *slots]
    rows = [flat[where] for flat in flats]
    update(rule, rows[0], values, rows[1:], scalars, np.array([[0, 0, where.size]], np.int64))
    for flat, row in zip(flats, rows, strict=True):
        flat[where] = row


def constrain(variable: Variable) -> None:
    """Replace the value of a variable that has a constraint by the constrained value."""
    constraint, buffer, start = variable.constraint, variable.storage.buffer, variable.storage.start
    assert constraint is not None
    if buffer is None or buffer.owned_ranges is None:
        variable.assign(constraint(variable.storage.array))
        return
    for begin, end in buffer.parts(start, variable.size):
        buffer.flat[begin:end] = constraint(buffer.flat[begin:end])  # an elementwise one: the others are refused


def rounds(gradients: Gradients) -> Iterator[Sequence[int]]:
    """Divide the entries into parts without repeated variables: a variable is updated once for each appearance."""
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
