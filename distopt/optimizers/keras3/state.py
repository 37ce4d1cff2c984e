"""The state of an optimizer of the Keras 3 family: its counter, its variables, and the parameters it was built for."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any, ClassVar

import numpy as np

from distopt.arrays import Array
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import telling_the_others
from distopt.distribute.belonging import in_own_scope
from distopt.distribute.strategy import get_strategy
from distopt.engine.plan_setup import synchronise
from distopt.engine.state.options import StepOptions
from distopt.errors import InvalidArgumentError
from distopt.memory.arena import allocate
from distopt.optimizers.common.shown import as_call
from distopt.optimizers.common.tracking import TrackedList
from distopt.optimizers.keras3.learning_rate import LearningRate
from distopt.optimizers.keras3.own_variables import OwnVariables
from distopt.slabs.listing import Listing
from distopt.slabs.read_gradients import as_variables, check_variable
from distopt.variables.variable import Variable


class State(OwnVariables):
    """The variables of an optimizer of the Keras 3 family; not for users.

    Args:
        name: the optimizer's name.
        options: the options of a step that the user has given.
        learning_rate: the learning rate; if it is a number, its Variable is one of the optimizer's variables.
    """

    def __init__(self, name: str, options: StepOptions, learning_rate: LearningRate) -> None:
        super().__init__(name, options)
        self._distopt_own_learning_rate = learning_rate
        self._distopt_step_counter = Variable(np.int64(0), name="iteration", dtype="int64", trainable=False)
        self._distopt_engine.training.count_with(self._distopt_step_counter)

    def __repr__(self) -> str:
        return as_call(self, self._distopt_shown)

    def _distopt_shown(self) -> dict[str, Any]:
        """Return the arguments, with the learning rate as it was given."""
        config = self.get_config()
        given = {"learning_rate": self._distopt_own_learning_rate.source}
        return config | (given if "learning_rate" in config else {})

    # The learning rate

    @property
    def learning_rate(self) -> Any:
        """Return the current learning rate: a Variable, or the value of the schedule or function."""
        return self._get_current_learning_rate()

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        before = self._distopt_own_learning_rate.source
        self._distopt_own_learning_rate.replace(value, self.name)
        if isinstance(before, Variable) and self._distopt_own_learning_rate.source is not before:
            self._untrack_variable(before)

    def _get_current_learning_rate(self) -> Any:
        source = self._distopt_own_learning_rate.source
        return (
            source if isinstance(source, Variable) else self._distopt_own_learning_rate.at(self._distopt_step_counter)
        )

    @property
    def _learning_rate(self) -> Any:
        """Return the source of the learning rate, by Keras' name."""
        return self._distopt_own_learning_rate.source

    @_learning_rate.setter
    def _learning_rate(self, value: Any) -> None:
        self._distopt_own_learning_rate.use(value)

    # The counter

    @property
    def iterations(self) -> Any:
        """Return the number of steps done: an int64 Variable; with accumulation, where that counts calls, a number."""
        training = self._distopt_engine.training
        return self._distopt_step_counter if training.accumulation is None else training.steps

    def _distopt_count_in(self, counter: Any) -> None:
        if not isinstance(counter, Variable) or counter.shape != () or counter.dtype.kind not in "iu":
            raise InvalidArgumentError(
                f"_iterations = {counter!r}: optimizer {self.name!r} counts in a Variable of an integer: to set the "
                "number, say optimizer.iterations.assign(number)"
            )
        self._distopt_own_variables.pop(counter, None)
        self._distopt_step_counter = counter
        self._distopt_engine.training.count_with(counter)

    # The state as a list

    @property
    def variables(self) -> list[Variable]:
        """Return all state: iteration, learning_rate (where it is a number), then slots; no parameters."""
        rate = self._distopt_own_learning_rate.variables
        every = [self._distopt_step_counter, *rate, *self._distopt_tracked()]
        return [each for each in every if each not in self._distopt_untracked] if self._distopt_untracked else every

    @property
    def _variables(self) -> TrackedList:
        """Return this optimizer's own state, by Keras' name."""
        return TrackedList(State.variables.__get__(self), self._track_variable, self._untrack_variable)

    def _distopt_is_counted(self, variable: Variable) -> bool:
        return variable is self._distopt_step_counter or variable is self._distopt_own_learning_rate.source

    def _distopt_state(self) -> list[Variable]:
        # Not the learning rate: replicas that were given different ones are told so in the next header.
        # Nor what this replica has accumulated.
        accumulation = self._distopt_engine.training.accumulation
        own = [*self._distopt_tracked(), *self._distopt_unlisted]
        if self._distopt_hooks.variables:  # those that a wrapper adds to its own
            own = list(dict.fromkeys([*own, *self.variables]))
        left_out = {*self._trainable_variables, self._distopt_step_counter, *self._distopt_own_learning_rate.variables}
        if accumulation is not None:
            left_out.update(accumulation.sums.values())
        return [self._distopt_step_counter, *(variable for variable in own if variable not in left_out)]

    def _distopt_trained(self) -> Iterable[Variable]:
        return self._trainable_variables

    def get_weights(self) -> list[Array]:
        """Return copies of the values of ``variables``; with ``update="shared"`` a collective.

        ``set_weights`` takes these values with any number of replicas, in either mode.
        """
        return self._distopt_read_state(self.variables)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the values of ``variables``; with ``update="shared"`` a collective.

        Args:
            weights: one array per variable, in the order of ``variables``; not changed.

        Raises:
            InvalidArgumentError: another number of arrays, or other shapes (Keras 3 stops at the shorter list);
                nothing has been changed.
        """
        variables = self.variables
        if len(weights) != len(variables):
            raise InvalidArgumentError(
                f"set_weights received {len(weights)} arrays, and {self.name!r} has {len(variables)} variables"
                + ("" if self.built else ": call build(trainable_variables) first")
            )
        for variable, weight in zip(variables, weights, strict=True):
            if np.shape(weight) != variable.shape:
                raise InvalidArgumentError(
                    f"set_weights received an array of shape {np.shape(weight)} for {variable.name!r}, which has shape "
                    f"{variable.shape}: pass the arrays in the order of optimizer.variables"
                )
        self._distopt_write_state(variables, weights)
        accumulation = self._distopt_engine.training.accumulation
        if accumulation is not None:
            accumulation.go_on(self._distopt_step_counter)

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Put the values of ``variables`` into a store, under "0", "1", ...; with ``update="shared"`` a collective.

        Args:
            store: a dict, or a group of an HDF5 file; changed.

        Example:
            >>> import distopt
            >>> store = {}
            >>> distopt.optimizers.SGD(0.5).save_own_variables(store)
            >>> {name: float(value) for name, value in store.items()}
            {'0': 0.0, '1': 0.5}
        """
        for number, value in enumerate(self.get_weights()):
            store[str(number)] = value

    def load_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Set the values of ``variables`` from a store that ``save_own_variables`` has filled.

        Args:
            store: the store; not changed.

        Raises:
            InvalidArgumentError: another number of values, or other shapes (Keras 3 warns and loads nothing); nothing
                has been changed.
        """
        if len(store) != len(self.variables):
            raise InvalidArgumentError(
                f"load_own_variables: the store has {len(store)} values, and {self.name!r} has {len(self.variables)} "
                "variables" + ("" if self.built else ": call build(trainable_variables) first")
            )
        self.set_weights([np.asarray(store[str(number)]) for number in range(len(store))])

    def _distopt_prepare_for(self, variables: list[Variable]) -> None:
        if not self.built:
            self._distopt_listing_of(None, variables)

    def _distopt_sources(self) -> dict[str, Any]:
        return {"learning_rate": self._distopt_own_learning_rate.source}

    # Building

    @in_own_scope
    def build(self, variables: Sequence[Variable]) -> None:
        """Make the optimizer's variables. If you call this method yourself, all replicas get replica 0's values.

        A built-in optimizer gets its slots here, variable by variable; override this method to make other slots.

        Args:
            variables: the variables that will be trained, the same on every replica.
        """
        if self.built:
            return
        strategy = get_strategy()
        shares_values = (
            self._distopt_engine.builds_share_values and strategy.broadcast and strategy.num_replicas_in_sync > 1
        )
        communicator = strategy.ready() if shares_values else None
        with telling_the_others(communicator):
            listed = as_variables(variables, "build received")
            for variable in listed:
                check_variable(variable)
        self.built = True
        self._trainable_variables = listed
        self._distopt_index_variables()
        # Together: one buffer, one kernel call.
        allocate(self._trainable_variables, shareable=strategy.shares_parameters)
        if communicator is not None:
            try:
                synchronise(self._distopt_family(), self._distopt_engine, communicator, self._trainable_variables)
            except BaseException:
                self.built = False
                raise
        self._distopt_make_variables()

    def _distopt_make_variables(self) -> None:
        """Make the variables of the optimizer, in the order of a list of weights."""
        self._distopt_make_all_slots()

    def _distopt_make_all_slots(self) -> None:
        """Make the slots of a built-in optimizer, in the order of Keras."""
        self._distopt_make_slots(self.rule_slots())

    _distopt_slot_lists: ClassVar[tuple[tuple[str, str], ...]] = ()
    """The label of slots, and the attribute in which Keras' class keeps the list of them."""

    def _distopt_make_slots(self, labels: Sequence[str], initializer: Any = "zeros") -> None:
        """Make slots of all variables, and keep the lists of them by Keras' names."""
        made = self.add_optimizer_variables(self._trainable_variables, labels, initializer)
        for label, attribute in self._distopt_slot_lists:
            if label in labels:
                self.__dict__[attribute] = made[labels.index(label)]

    def _distopt_new_listing(self, communicator: Communicator | None, variables: Sequence[Variable]) -> Listing:
        if not variables:
            raise InvalidArgumentError("received an empty list: pass (gradient, variable) pairs")
        if not self.built:
            with self._distopt_engine.values_shared_later():
                self.build(list(dict.fromkeys(variables)))
        for variable in variables:
            self._get_variable_index(variable)
        return super()._distopt_new_listing(communicator, variables)
