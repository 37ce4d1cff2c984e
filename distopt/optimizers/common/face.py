"""The answers of an optimizer family to the engine, as methods that each family writes."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from distopt.engine.engine import Engine
from distopt.engine.state.family import Family, RuleCall
from distopt.engine.state.options import StepOptions
from distopt.errors import ForeignVariableError
from distopt.kernels import Rule
from distopt.memory.flat_buffer import FlatBuffer
from distopt.process.replica import Replica
from distopt.slabs.fitting import Pair
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import Listing
from distopt.variables.variable import Variable

DType = np.dtype[Any]


class Face(abc.ABC):
    """The answers of an optimizer; ``_distopt_family`` hands them to the engine.

    Args:
        options: the options that the user has given.
    """

    name: str
    _distopt_is_probe = False
    """True where only the checks of the constructor are asked for (``as_constructed``)."""

    _distopt_sees_own_gradients = False
    """True where a method of the user's sees this replica's gradients when a step has read them."""

    def __init__(self, options: StepOptions) -> None:
        self._distopt_engine = Engine(options)

    def _distopt_seen_before_sum(self, pairs: list[Pair]) -> list[Pair]:
        """Return what a method of the user's makes of this replica's gradients before they are summed."""
        return pairs

    # The rule of an optimizer, built-in or of a user's own, the labels of its slots, and its scalars

    def update_rule(self) -> Rule | None:
        """Return the update rule; None where a class updates by methods of its own.

        Override this method to write an optimizer that is as fast as a built-in one, in both modes.
        """
        return None

    def _distopt_known_rule(self) -> Rule:
        rule = self.update_rule()
        if rule is None:
            raise NotImplementedError(
                f"{type(self).__name__} has no update of its own, and this one must be overridden"
            )
        return rule

    def rule_slots(self) -> tuple[str, ...]:
        """Return the public names of the rule's slots, in its order; by default the rule's own names."""
        rule = self.update_rule()
        return () if rule is None else rule.slots

    def _distopt_slot_dtype(self, variable: Variable) -> DType:
        return variable.dtype

    def _distopt_new_slot(self, variable: Variable, label: str, name: str, value: Any) -> Variable:
        """Make a slot at its variable's position: for each label, each buffer of variables has a parallel buffer."""
        slot = Variable(value, name=name, dtype=self._distopt_slot_dtype(variable), trainable=False)
        self._distopt_engine.slots.add(variable, label, slot)
        return slot

    def _distopt_variant_of(self, variable: Variable) -> int:
        """Return the differences of a variable's update from the rule, as bits; 0 where there are none."""
        return 0

    def _distopt_call(self, buffer: FlatBuffer, scalars: Sequence[float]) -> RuleCall:
        """Return rule, slots and scalars of the variables of one buffer."""
        flats = self._distopt_engine.slots.flats
        return self._distopt_known_rule(), [flats[buffer, label] for label in self.rule_slots()], scalars

    def _distopt_step_call(self, buffer: FlatBuffer, variant: int) -> RuleCall:
        """Return rule, slots and scalars of this step for one buffer and one variant of the update."""
        call = self._distopt_call(buffer, self._distopt_step_scalars(buffer.flat.dtype))
        return self._distopt_varied(call, buffer, variant) if variant else call

    def _distopt_varied(self, call: RuleCall, buffer: FlatBuffer, variant: int) -> RuleCall:
        """Return the rule's call in this step, extended by the operations that a variant of the update adds."""
        return call

    @abc.abstractmethod
    def _distopt_step_scalars(self, dtype: DType) -> Sequence[float]:
        """Return the values of the rule's scalars in this step."""

    # What a family answers

    @property
    def _iterations(self) -> Variable:
        """Return the counter of calls, an int64 Variable."""
        return self._distopt_engine.training.iterations

    @property
    def _distopt_step_number(self) -> int:
        """Return the number of the current step, from 1."""
        return self._distopt_engine.training.steps + 1

    @abc.abstractmethod
    def _distopt_state(self) -> list[Variable]:
        """Return all variables that must be equal on all replicas, without the parameters."""

    def _distopt_all_slots(self) -> Mapping[tuple[Variable, str], Variable]:
        """Return the slots, by variable and label."""
        return self._distopt_engine.slots.table

    @abc.abstractmethod
    def _distopt_trained(self) -> Iterable[Variable]:
        """Return the variables that this optimizer keeps state for."""

    @abc.abstractmethod
    def _distopt_check_gradients(self, gradients: Gradients) -> None:
        """Refuse gradients that the update could not apply, before replicas agree on the step."""

    @abc.abstractmethod
    def _distopt_evaluate_hyperparameters(self, listing: Listing) -> dict[str, float]:
        """Evaluate hyperparameters for this step; return the numbers that must be the same on all replicas."""

    @abc.abstractmethod
    def _distopt_create_state(self, gradients: Gradients) -> None:
        """Make the slots that variables with gradients still lack."""

    @abc.abstractmethod
    def _distopt_prepare_for(self, variables: list[Variable]) -> None:
        """Make the slots that the first step over these variables would make."""

    @abc.abstractmethod
    def _distopt_sources(self) -> dict[str, Any]:
        """Return the sources of hyperparameters by name: variables, schedules, functions."""

    @abc.abstractmethod
    def _distopt_update(self, gradients: Gradients, *, dense_done: bool) -> None:
        """Update the variables that take part, and apply their constraints.

        Args:
            gradients: the gradients that take part.
            dense_done: True if variables with dense gradients are updated already, by the rule.
        """

    @property
    @abc.abstractmethod
    def _distopt_updates_flat(self) -> bool:
        """Return whether the rule updates variables with dense gradients, whole buffers at a time."""

    @abc.abstractmethod
    def _distopt_missing(self, names: list[str], *, everything: bool) -> None:
        """Say that some variables have no gradient on any replica: a warning, or an error if none has."""

    def _distopt_identity(self) -> str:
        """Describe the options of the optimizer that all replicas must share."""
        rule, training = self.update_rule(), self._distopt_engine.training
        kind = type(self).__name__
        parts = [kind if rule is None else f"{kind} ({rule.name})", *self._distopt_engine.options.description()]
        if training.skips_nonfinite and training.loss_scale is not None:
            parts.append(f"dynamic loss scale, growth after {training.loss_scale.growth_steps} steps")
        return ", ".join(parts)

    def _distopt_methods(self) -> str:
        """Return the names of what has to see the whole sum, beside hooks; an empty text where nothing has to."""
        return ""

    def _distopt_refuse_if_unusable(self, replica: Replica) -> None:
        owner = self._iterations.owner
        if owner is not replica:
            raise ForeignVariableError(
                f"optimizer {self.name!r} was made by {owner.name} and is used by {replica.name}; replicas share no "
                "optimizers. Make it inside the function given to simulate"
            )
        if self._distopt_engine.training.damage is not None:
            self._distopt_engine.training.refuse_if_damaged(self.name)

    def _distopt_family(self) -> Family:
        """Return the interface through which the engine uses this optimizer."""
        return Family(
            kind=type(self).__name__,
            name=self.name,
            updates_flat=self._distopt_updates_flat,
            identity=self._distopt_identity,
            state=self._distopt_state,
            slots=self._distopt_all_slots,
            trained=self._distopt_trained,
            check=self._distopt_check_gradients,
            hyperparameters=self._distopt_evaluate_hyperparameters,
            create_state=self._distopt_create_state,
            variant_of=self._distopt_variant_of,
            rule_call=self._distopt_step_call,
            prepare=self._distopt_prepare_for,
            sources=self._distopt_sources,
            refuse_if_unusable=self._distopt_refuse_if_unusable,
            update=self._distopt_update,
            missing=self._distopt_missing,
            methods=self._distopt_methods,
        )
