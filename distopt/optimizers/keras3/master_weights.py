"""Exact copies of 16-bit weights, in the Keras 3 family: updates smaller than a rounding step add up in the copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arguments import flag, hook_name
from distopt.engine.state.family import RuleCall
from distopt.engine.state.slot_store import SlotStore
from distopt.errors import InvalidArgumentError
from distopt.kernels import mastered
from distopt.memory.flat_buffer import FlatBuffer
from distopt.optimizers.common.rule_updates import MASTERED
from distopt.optimizers.common.underflow import warn_of_underflow
from distopt.variables.variable import Variable

MASTER_SLOT = "master"
"""The label of the slots that hold exact copies."""


class MasterWeights:
    """The record of which weights of one optimizer have an exact copy in float32, and whether each copy is current.

    All slots of a weight with a copy are float32.

    Args:
        owner: the optimizer's class, for messages.
        are_kept: whether there are copies at all.
    """

    def __init__(self, owner: str, are_kept: Any) -> None:
        self._owner = owner
        self.are_kept: bool
        """True where there are copies at all."""
        self.set(are_kept)
        self._writes: dict[Variable, tuple[int, int]] = {}
        """The numbers of writes of a weight and of its copy, at the time when both were last equal."""

    def set(self, are_kept: Any) -> None:
        """Decide whether to keep copies of the weights for which the optimizer will be built."""
        self.are_kept = flag(self._owner, "master_weights", are_kept)

    def has(self, variable: Variable) -> bool:
        """Return whether a weight has, or will get, a copy."""
        return self.are_kept and variable.dtype.itemsize == 2

    def slot_dtype(self, variable: Variable) -> np.dtype[Any]:
        """Return the dtype of a weight's slots."""
        return np.dtype(np.float32) if self.has(variable) else variable.dtype

    def variant_of(self, variable: Variable) -> int:
        """Return MASTERED, or 0 for a variable without a copy."""
        return MASTERED if self.has(variable) else 0

    def extended(self, call: RuleCall, buffer: FlatBuffer, slots: SlotStore) -> RuleCall:
        """Return the call of a rule on one flat buffer, extended by the copies of its weights."""
        rule, arrays, scalars = call
        return mastered(rule), [*arrays, slots.flats[buffer, MASTER_SLOT]], scalars

    def check(self, variable: Variable, *, updates_flat: bool) -> None:
        """Refuse a weight whose update does not work on a copy.

        Args:
            variable: the weight, of 16 bits.
            updates_flat: whether the optimizer's rule updates it, not a method.

        Raises:
            InvalidArgumentError: a method updates the weight, or the weight has a constraint.
        """
        if not updates_flat:
            raise InvalidArgumentError(
                f"{self._owner}(master_weights=True): it updates by a method of its own, and only update rules "
                "work on exact copies. Keep the variables in float32"
            )
        if variable.constraint is not None:
            raise InvalidArgumentError(
                f"master_weights=True, and variable {variable.name!r} has the constraint "
                f"{hook_name(variable.constraint)}, which would act on the rounded weights: leave one of the two out"
            )

    def warn_of_underflow(self, name: str, moments: Sequence[Variable], *, updates_flat: bool) -> None:
        """Warn once, on replica 0, of second moments in float16: the square of 1e-4 is zero there.

        Args:
            name: the optimizer's name.
            moments: the slots that hold second moments.
            updates_flat: whether the optimizer's rule updates the variables, so that exact copies would be a cure.
        """
        exact = f"{self._owner}(..., master_weights=True) keeps them in float32"
        warn_of_underflow(name, moments, exact if updates_flat else "Keep the variables in bfloat16 or float32")

    def note_made(self, variable: Variable) -> None:
        """Note that the copy of a weight has just been made."""
        self._writes[variable] = variable.storage.writes, 0

    def note(self, slots: SlotStore) -> None:
        """Note that weights and copies are equal now, after a step that has written both."""
        for variable in self._writes:
            master = slots.table[variable, MASTER_SLOT]
            self._writes[variable] = variable.storage.writes, master.storage.writes

    def renew(self, slots: SlotStore) -> None:
        """Copy weights that were assigned since the last step, unless their copies were assigned too."""
        for variable, writes in self._writes.items():
            master = slots.table[variable, MASTER_SLOT]
            if variable.storage.writes != writes[0] and master.storage.writes == writes[1]:
                _copy_own_part(variable, slots)


def _copy_own_part(variable: Variable, slots: SlotStore) -> None:
    """Write a weight into its exact copy; where both exist once per node, each replica writes the part that it owns."""
    buffer, start = variable.storage.buffer, variable.storage.start
    if buffer is None:
        return
    masters = slots.flats[buffer, MASTER_SLOT]
    for begin, end in buffer.parts(start, variable.size):
        masters[begin:end] = buffer.flat[begin:end]
