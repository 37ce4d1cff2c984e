"""The state of an optimizer of the legacy family: its counter, its slots, and the list of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from distopt.arrays import Array
from distopt.distribute.strategy import get_strategy
from distopt.engine.state.options import StepOptions
from distopt.errors import InvalidArgumentError
from distopt.memory.arena import allocate
from distopt.optimizers.common.base import BaseOptimizer
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import Listing
from distopt.slabs.read_gradients import check_variable
from distopt.variables.variable import Variable


class State(BaseOptimizer):
    """State per variable, made when first needed and kept in the order of making: ``[iterations, slot, slot, ...]``.

    Args:
        name: a name; the names of state variables begin with it.
        options: the options that the user has given.
    """

    _may_lack_iterations: ClassVar[bool] = False
    """True where ``set_weights`` also takes a list of Keras 1, which did not begin with iterations."""

    def __init__(self, name: str, options: StepOptions) -> None:
        super().__init__(options)
        self._name = name
        self._slots: dict[Variable, dict[str, Variable]] = {}
        self._slot_names: list[str] = []
        self._weights: list[Variable] = []
        self._counter: Variable | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        """Return the optimizer's name."""
        return self._name

    @property
    def iterations(self) -> Variable:
        """Return the number of steps done, an int64 Variable, which can be set before its first use."""
        if self._counter is None:
            self._counter = Variable(np.int64(0), name=f"{self._name}/iter", dtype="int64", trainable=False)
            self._weights.insert(0, self._counter)
            self._engine.training.count_with(self._counter)
        return self._counter

    @iterations.setter
    def iterations(self, variable: Variable) -> None:
        if self._counter is not None:
            raise RuntimeError(
                "Cannot set `iterations` to a new Variable after the optimizer's weights have been created; "
                "use optimizer.iterations.assign(n)"
            )
        if not isinstance(variable, Variable) or variable.shape != () or variable.dtype != np.int64:
            raise InvalidArgumentError(f"iterations = {variable!r}: expected Variable(np.int64(n))")
        self._counter = variable
        self._weights.insert(0, variable)
        self._engine.training.count_with(variable)

    @property
    def _iterations(self) -> Variable:
        return self.iterations

    @property
    def _step_number(self) -> int:
        return int(self.iterations.storage.array) + 1  # also where an update is called outside of a step

    def _all_slots(self) -> Mapping[tuple[Variable, str], Variable]:
        # Those of another shape than their variable's are only here.
        mine = {(variable, name): slot for variable, slots in self._slots.items() for name, slot in slots.items()}
        return {**super()._all_slots(), **mine}

    def _trained(self) -> Iterable[Variable]:
        return self._slots

    def _refuse_twins(self, listing: Listing) -> None:
        """Refuse copies of variables, if this optimizer is a copy whose slots belong to the original variables."""
        known = {variable.name for variable in self._slots} if self._is_copy else set()
        for variable in listing.variables:
            if variable.name in known and variable not in self._slots:
                raise InvalidArgumentError(
                    f"{variable!r} is not the variable of the same name that {self._name!r} has slots for: was it "
                    "copied after the optimizer? copy.deepcopy((variables, optimizer)) copies both, in this order"
                )

    def _prepare_for(self, variables: list[Variable]) -> None:
        allocate(variables, shareable=get_strategy().shares_parameters)
        self._create_slots(variables)

    def _create_state(self, gradients: Gradients) -> None:
        listing, variables = gradients.listing, gradients.slab.variables
        everything = gradients.entries is listing.entries
        if everything and listing.has_slots:
            return
        self._create_slots(list(dict.fromkeys(variables[k] for k in gradients.entries)))
        if everything:
            listing.note_slots()

    def _create_slots(self, var_list: Sequence[Variable]) -> None:
        """Make the slots of variables, name by name; override this method with calls of ``add_slot``."""
        for slot_name in self._slot_labels():
            for var in var_list:
                self.add_slot(var, slot_name)

    def add_slot(
        self, var: Variable, slot_name: str, initializer: Any = "zeros", shape: Sequence[int] | None = None
    ) -> Variable:
        """Make a slot of a variable, or return the one that exists.

        Args:
            var: the variable.
            slot_name: the slot's name.
            initializer: ``"zeros"``, ``"ones"``, a function of (shape, dtype), or the value itself.
            shape: the slot's shape; the variable's by default.

        Returns:
            The slot, a Variable of the variable's dtype, called ``{variable}/{slot}``.
        """
        if var not in self._slots:
            check_variable(var)
        slots = self._slots.setdefault(var, {})
        if slot_name in slots:
            return slots[slot_name]
        if slot_name not in self._slot_names:
            self._slot_names.append(slot_name)
        value = _initial(initializer, var.shape if shape is None else tuple(shape), var.dtype)
        name = f"{var.name}/{slot_name}"
        if value.shape == var.shape:
            slot = self._new_slot(var, slot_name, name, value)
        else:
            slot = Variable(value, name=name, trainable=False)
        slots[slot_name] = slot
        self._weights.append(slot)
        return slot

    def get_slot(self, var: Variable, slot_name: str) -> Variable:
        """Return a slot.

        Raises:
            KeyError: the variable has no such slot (slots are made in the first step that updates it).
        """
        slots = self._slots.get(var, {})
        if slot_name not in slots:
            check_variable(var)
            raise KeyError(
                f"variable {var.name!r} has no slot {slot_name!r} in {self._name!r}; it has {sorted(slots)}. Slots "
                "are made in the first step that updates a variable"
            )
        return slots[slot_name]

    def get_slot_names(self) -> list[str]:
        """Return the names of the slots, in the order in which they were made."""
        return list(self._slot_names)

    @property
    def weights(self) -> list[Variable]:
        """Return the state in the order in which it was made: iterations, then slots; no hyperparameters."""
        return self._weights

    def variables(self) -> list[Variable]:
        """Return ``weights``."""
        return self._weights

    def _state(self) -> list[Variable]:
        _, scale = self.iterations, self._engine.training.loss_scale
        return [*self._weights, *(() if scale is None else (scale.step_counter, scale.scale))]

    def get_weights(self) -> list[Array]:
        """Return copies of the values of ``weights``; with ``update="shared"`` a collective."""
        return self._read_state(self._weights)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the values of ``weights``; with ``update="shared"`` a collective.

        Args:
            weights: one array per weight, in their order; not changed.

        Raises:
            InvalidArgumentError: another number of arrays, or other shapes.
        """
        if self._may_lack_iterations and len(weights) == len(self._weights) - 1:
            weights = [np.int64(0), *weights]
        if len(weights) != len(self._weights):
            raise InvalidArgumentError(
                f"You called `set_weights(weights)` on optimizer {self._name!r} with a weight list of length "
                f"{len(weights)}, but the optimizer was expecting {len(self._weights)} weights. Slots are made in the "
                "first step; make one before (with zero gradients, say), or save after as many steps"
            )
        for weight, value in zip(self._weights, weights, strict=True):
            if np.shape(value) != weight.shape:
                raise InvalidArgumentError(
                    f"Optimizer weight {weight.name!r} of shape {weight.shape} is not compatible with the provided "
                    f"weight of shape {np.shape(value)}"
                )
        self._write_state(self._weights, weights)


def _initial(initializer: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if callable(initializer):
        return np.asarray(initializer(shape, dtype=dtype), dtype)
    if isinstance(initializer, str):
        if initializer not in ("zeros", "ones"):
            raise InvalidArgumentError(
                f"initializer={initializer!r}: expected 'zeros', 'ones', a function of (shape, dtype) or a value"
            )
        return np.full(shape, initializer == "ones", dtype)
    return np.asarray(initializer, dtype)
