"""The state of an optimizer of the legacy family: its counter, its slots, and the list of its weights."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from distopt.distribute.strategy import get_strategy
from distopt.engine.state.options import StepOptions
from distopt.errors import InvalidArgumentError
from distopt.memory.arena import allocate
from distopt.optimizers.common.initializers import first_value
from distopt.optimizers.common.underflow import warn_of_underflow
from distopt.optimizers.legacy.base.hooks import MAKERS
from distopt.optimizers.legacy.base.weights import Weights
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import ABSENT, Listing
from distopt.slabs.read_gradients import check_variable
from distopt.variables.variable import Variable


class State(Weights):
    """State per variable, made when first needed and kept in the order of making: ``[iterations, slot, slot, ...]``.

    Args:
        name: a name; the names of state variables begin with it.
        options: the options that the user has given.
    """

    _distopt_second_moments: ClassVar[tuple[str, ...]] = ()
    """The names of the slots that hold sums or means of squared gradients."""
    _distopt_told_of_underflow = False

    def __init__(self, name: str, options: StepOptions) -> None:
        super().__init__(name, options)
        self._slots: dict[Variable, dict[str, Variable]] = {}
        self._slot_names: list[str] = []
        self._distopt_given: list[Variable] = []

    @property
    def _distopt_step_number(self) -> int:
        return int(self.iterations.storage.array) + 1  # also where an update is called outside of a step

    def _distopt_all_slots(self) -> Mapping[tuple[Variable, str], Variable]:
        # Those of another shape than their variable's are only here.
        mine = {(variable, name): slot for variable, slots in self._slots.items() for name, slot in slots.items()}
        return {**super()._distopt_all_slots(), **mine}

    def _distopt_trained(self) -> Iterable[Variable]:
        return self._slots

    def _distopt_refuse_twins(self, listing: Listing) -> None:
        """Refuse copies of variables, if this optimizer is a copy whose slots belong to the original variables."""
        known = {variable.name for variable in self._slots} if self._distopt_is_copy else set()
        for variable in listing.variables:
            if variable.name in known and variable not in self._slots:
                raise InvalidArgumentError(
                    f"{variable!r} is not the variable of the same name that {self._name!r} has slots for: was it "
                    "copied after the optimizer? copy.deepcopy((variables, optimizer)) copies both, in this order"
                )

    def _distopt_prepare_for(self, variables: list[Variable]) -> None:
        allocate(variables, shareable=get_strategy().shares_parameters)
        self._distopt_create_for(variables)

    def _distopt_create_state(self, gradients: Gradients) -> None:
        listing, variables = gradients.listing, gradients.slab.variables
        everything = gradients.entries is listing.entries
        if everything and listing.has_slots:
            return
        self._distopt_create_for(list(dict.fromkeys(variables[k] for k in gradients.entries)))
        if everything:
            listing.note_slots()

    def _distopt_create_early(self, gradients: Gradients) -> None:
        """Make slots before hyperparameters, as upstream does: methods of the user's may look for them."""
        listing, variables, kinds = gradients.listing, gradients.slab.variables, gradients.kinds
        given = [variables[k] for k in listing.entries if kinds[k] != ABSENT]
        self._distopt_given = list(dict.fromkeys(given))
        if not listing.has_slots or "_create_all_weights" in self._distopt_hooks:
            self._distopt_create_for(self._distopt_given)

    def _distopt_create_for(self, variables: list[Variable]) -> None:
        if self._distopt_hooks.isdisjoint(MAKERS):
            self._create_slots(variables)
        else:
            self._create_all_weights(variables)
        self._distopt_warn_of_underflow(variables)

    def _create_all_weights(self, var_list: Sequence[Variable]) -> None:
        """Make the counter, the hyperparameters' Variables and the slots of variables, where they are missing."""
        _ = self.iterations
        self._create_hypers()
        self._create_slots(var_list)
        self._create_slots_for_sharded_variables(var_list)

    @abc.abstractmethod
    def _create_hypers(self) -> None:
        """Turn the hyperparameters that are numbers into Variables."""

    def _distopt_warn_of_underflow(self, variables: Sequence[Variable]) -> None:
        """Warn once of second moments in float16, which are those of variables in float16."""
        if self._distopt_second_moments and not self._distopt_told_of_underflow:
            slots = [slot for variable in variables for slot in self._slots.get(variable, {}).items()]
            moments = [slot for name, slot in slots if name in self._distopt_second_moments]
            self._distopt_told_of_underflow = warn_of_underflow(
                self._name, moments, "Keep the variables in bfloat16 or float32"
            )

    def _create_slots(self, var_list: Sequence[Variable]) -> None:
        """Make the slots of variables, name by name; override this method with calls of ``add_slot``."""
        for slot_name in self.rule_slots():
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
        name = f"{var.name}/{slot_name}"
        value = first_value(initializer, var.shape if shape is None else tuple(shape), var.dtype)
        with self._distribution_strategy_scope():
            if value.shape == var.shape:
                slot = self._distopt_new_slot(var, slot_name, name, value)
            else:
                slot = Variable(value, name=name, trainable=False)
        slots[slot_name] = slot
        if "_restore_slot_variable" in self._distopt_hooks:
            self._restore_slot_variable(slot_name=slot_name, variable=var, slot_variable=slot)
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

    def _create_slots_for_sharded_variables(self, var_list: Sequence[Variable]) -> None:
        """Do nothing: no variable is cut into several."""

    def _restore_slot_variable(self, slot_name: str, variable: Variable, slot_variable: Variable) -> None:
        """Do nothing; upstream calls it with every new slot, which may wait for a value in a checkpoint."""

    def _create_or_restore_slot_variable(
        self, slot_variable_position: Any, slot_name: str, variable: Variable
    ) -> Variable:
        """Return a slot, made if it is missing; only TensorFlow's checkpoints call this."""
        return self.add_slot(variable, slot_name)

    def get_slot_names(self) -> list[str]:
        """Return the names of the slots, in the order in which they were made."""
        return list(self._slot_names)
