"""Exact copies of weights of 16 bits, in the Keras 3 family: updates smaller than a rounding step add up in them."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.arguments import hook_name
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.rule_updates import MASTERED, RuleUpdates
from distopt.variables.variable import Variable


class MasterWeights(RuleUpdates):
    """The part of the Keras 3 optimizer that keeps float32 copies; state of such a variable is float32 too."""

    name: str
    master_weights: bool
    _updates_flat: Any

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._master_versions: dict[Variable, tuple[int, int]] = {}

    def _has_master(self, variable: Variable) -> bool:
        return self.master_weights and variable.dtype.itemsize == 2

    def _variant_of(self, variable: Variable) -> int:
        return super()._variant_of(variable) | (MASTERED if self._has_master(variable) else 0)

    def _slot_dtype(self, variable: Variable) -> np.dtype[Any]:
        return np.dtype(np.float32) if self._has_master(variable) else variable.dtype

    def _check_master(self, variable: Variable) -> None:
        if not self._updates_flat:
            raise InvalidArgumentError(
                f"{type(self).__name__}(master_weights=True): it updates by a method of its own, and only update rules "
                "work on exact copies. Keep the variables in float32"
            )
        if variable.constraint is not None:
            raise InvalidArgumentError(
                f"master_weights=True, and variable {variable.name!r} has the constraint "
                f"{hook_name(variable.constraint)}, which would act on the rounded weights: leave one of the two out"
            )

    def _renew_masters(self) -> None:
        """Take over weights that were assigned since the last step, unless their copies were too."""
        for variable, versions in self._master_versions.items():
            master = self._engine.slots.table[variable, "master"]
            if variable.storage.writes != versions[0] and master.storage.writes == versions[1]:
                self._copy_own_part(variable)

    def _copy_own_part(self, variable: Variable) -> None:
        """Copy a weight into its exact copy; where they exist once per node, each replica copies what it owns."""
        home, start = variable.storage.home, variable.storage.start
        if home is None:
            return
        masters = self._engine.slots.flats[home, "master"]
        for begin, end in home.parts(start, variable.size):
            masters[begin:end] = home.flat[begin:end]

    def _note_masters(self) -> None:
        """Remember of which weights the copies are."""
        for variable in self._master_versions:
            master = self._engine.slots.table[variable, "master"]
            self._master_versions[variable] = variable.storage.writes, master.storage.writes
