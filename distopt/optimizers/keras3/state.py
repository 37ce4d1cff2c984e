"""The state of an optimizer of the Keras 3 family: its counter, its variables, and the parameters it was built for."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

import numpy as np

from distopt.arrays import Array, to_dtype
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import telling_the_others
from distopt.distribute.strategy import get_strategy
from distopt.engine.plan_setup import synchronise
from distopt.engine.state.options import StepOptions
from distopt.errors import InvalidArgumentError
from distopt.memory.arena import allocate
from distopt.optimizers.common.base import BaseOptimizer
from distopt.optimizers.keras3.learning_rate import LearningRate
from distopt.slabs.listing import Listing
from distopt.slabs.read_gradients import as_variables, check_variable
from distopt.variables.variable import Variable


class State(BaseOptimizer):
    """The variables of an optimizer of the Keras 3 family; not for users.

    Args:
        name: the optimizer's name.
        options: the options of a step that the user has given.
        learning_rate: the learning rate; if it is a number, its Variable is one of the optimizer's variables.
    """

    def __init__(self, name: str, options: StepOptions, learning_rate: LearningRate) -> None:
        super().__init__(options)
        self.name = name
        self.built = False
        self._step_counter = Variable(np.int64(0), name="iteration", dtype="int64", trainable=False)
        self._engine.training.count_with(self._step_counter)
        self._own_variables: list[Variable] = []
        self._trainable_variables: list[Variable] = []
        self._indices: dict[int, int] = {}
        self._own_learning_rate = learning_rate

    @property
    def learning_rate(self) -> Any:
        """Return the current learning rate: a Variable, or the value of the schedule or function."""
        source = self._own_learning_rate.source
        return source if isinstance(source, Variable) else self._own_learning_rate.at(self._step_counter)

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self._own_learning_rate.replace(value, self.name)

    @property
    def _learning_rate(self) -> Any:
        """Return the source of the learning rate, by Keras' name."""
        return self._own_learning_rate.source

    @property
    def lr(self) -> Any:
        """Raise an error: in this family the name is ``learning_rate``, and setting ``lr`` would change nothing."""
        raise AttributeError(f"{type(self).__name__} has no lr: it is called learning_rate")

    @lr.setter
    def lr(self, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} has no lr: set learning_rate = {value!r}")

    @property
    def iterations(self) -> Any:
        """Return the number of steps done: an int64 Variable; with accumulation, where that counts calls, a number."""
        training = self._engine.training
        return self._step_counter if training.accumulation is None else training.steps

    @property
    def variables(self) -> list[Variable]:
        """Return all state: iteration, learning_rate (where it is a number), then slots; no parameters."""
        return [self._step_counter, *self._own_learning_rate.variables, *self._own_variables]

    def _state(self) -> list[Variable]:
        # Not the learning rate: replicas that were given different ones are told so in the next header.
        # Nor what this replica has accumulated.
        accumulation = self._engine.training.accumulation
        local = set() if accumulation is None else set(accumulation.sums.values())
        return [self._step_counter, *(variable for variable in self._own_variables if variable not in local)]

    def _trained(self) -> Iterable[Variable]:
        return self._trainable_variables

    def get_weights(self) -> list[Array]:
        """Return copies of the values of ``variables``; with ``update="shared"`` a collective.

        ``set_weights`` takes these values with any number of replicas, in either mode.
        """
        return self._read_state(self.variables)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the values of ``variables``; with ``update="shared"`` a collective.

        Args:
            weights: one array per variable, in the order of ``variables``; not changed.

        Raises:
            InvalidArgumentError: another number of arrays, or other shapes (Keras 3 stops at the shorter list);
                nothing has been changed.
        """
        if len(weights) != len(self.variables):
            raise InvalidArgumentError(
                f"set_weights received {len(weights)} arrays, and {self.name!r} has {len(self.variables)} variables"
                + ("" if self.built else ": call build(trainable_variables) first")
            )
        for variable, weight in zip(self.variables, weights, strict=True):
            if np.shape(weight) != variable.shape:
                raise InvalidArgumentError(
                    f"set_weights received an array of shape {np.shape(weight)} for {variable.name!r}, which has shape "
                    f"{variable.shape}: pass the arrays in the order of optimizer.variables"
                )
        self._write_state(self.variables, weights)
        accumulation = self._engine.training.accumulation
        if accumulation is not None:
            accumulation.go_on(self._step_counter)

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

    def _prepare_for(self, variables: list[Variable]) -> None:
        if not self.built:
            self._listing_of(None, variables)

    def _sources(self) -> dict[str, Any]:
        return {"learning_rate": self._own_learning_rate.source}

    def build(self, variables: Sequence[Variable]) -> None:
        """Make the optimizer's variables. If you call this method yourself, all replicas get replica 0's values.

        A built-in optimizer gets its slots here, variable by variable; override this method to make other slots.

        Args:
            variables: the variables that will be trained, the same on every replica.
        """
        if self.built:
            return
        strategy = get_strategy()
        shares_values = self._engine.builds_share_values and strategy.broadcast and strategy.num_replicas_in_sync > 1
        communicator = strategy.ready() if shares_values else None
        with telling_the_others(communicator):
            listed = as_variables(variables, "build received")
            for variable in listed:
                check_variable(variable)
        self.built = True
        self._trainable_variables = listed
        self._index_variables()
        # Together: one buffer, one kernel call.
        allocate(self._trainable_variables, shareable=strategy.shares_parameters)
        if communicator is not None:
            try:
                synchronise(self._family(), self._engine, communicator, self._trainable_variables)
            except BaseException:
                self.built = False
                raise
        self._make_variables()

    def _make_variables(self) -> None:
        """Make the variables of the optimizer, in the order of a list of weights."""
        self._make_slots()

    def _make_slots(self) -> None:
        """Make the slots of a built-in optimizer, in the order of Keras."""
        for variable in self._trainable_variables:
            for label in self._slot_labels():
                self.add_variable_from_reference(variable, label)

    def _index_variables(self) -> None:
        self._indices = {id(variable): k for k, variable in enumerate(self._trainable_variables)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._index_variables()

    def add_variable(
        self, shape: Sequence[int], initializer: Any = "zeros", dtype: Any = None, name: str | None = None
    ) -> Variable:
        """Make a variable of the optimizer.

        Args:
            shape: the shape of the variable.
            initializer: ``"zeros"``, ``"ones"``, or a function of (shape, dtype).
            dtype: float32 by default.
            name: the name of the variable.
        """
        value = _initial(initializer, tuple(shape), to_dtype(dtype or "float32"))
        variable = Variable(value, name=name, trainable=False)
        self._own_variables.append(variable)
        return variable

    def add_variable_from_reference(
        self, reference_variable: Variable, name: str | None = None, initializer: Any = "zeros"
    ) -> Variable:
        """Make a slot: a variable with shape and dtype of a trained variable.

        Args:
            reference_variable: the trained variable.
            name: the slot's name; the variable is called ``{optimizer}/{reference}_{name}``.
            initializer: ``"zeros"``, ``"ones"``, or a function of (shape, dtype).
        """
        label = name or "slot"
        path = f"{self.name}/{reference_variable.path.replace('/', '_')}_{label}"
        value = _initial(initializer, reference_variable.shape, self._slot_dtype(reference_variable))
        if (reference_variable, label) in self._engine.slots.table:
            label = f"{label}_{len(self._engine.slots.table)}"
        slot = self._new_slot(reference_variable, label, path, value)
        self._own_variables.append(slot)
        return slot

    def assign(self, variable: Variable, value: Any) -> None:
        """Set a variable."""
        variable.assign(value)

    def assign_add(self, variable: Variable, value: Any) -> None:
        """Add to a variable."""
        variable.assign_add(value)

    def assign_sub(self, variable: Variable, value: Any) -> None:
        """Subtract from a variable."""
        variable.assign_sub(value)

    def _get_variable_index(self, variable: Variable) -> int:
        index = self._indices.get(id(variable))
        if index is None:
            names = [v.name for v in self._trainable_variables]
            twin = (
                " is another variable than the one of the same name that was built for. Was it made anew, or copied "
                "after the optimizer? Copy both together, variables first, or pickle them"
            )
            raise InvalidArgumentError(
                f"Unknown variable: {variable!r}{twin if variable.name in names else ''}. This optimizer was built for "
                f"{names} and can only be called for those: make another "
                "optimizer for other variables, or build this one with all of them"
            )
        return index

    def _new_listing(self, communicator: Communicator | None, variables: Sequence[Variable]) -> Listing:
        if not variables:
            raise InvalidArgumentError("received an empty list: pass (gradient, variable) pairs")
        if not self.built:
            with self._engine.values_shared_later():
                self.build(list(dict.fromkeys(variables)))
        for variable in variables:
            self._get_variable_index(variable)
        return super()._new_listing(communicator, variables)


def _initial(initializer: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if callable(initializer):
        return np.asarray(initializer(shape, dtype), dtype)
    if initializer not in ("zeros", "ones"):
        raise InvalidArgumentError(
            f"initializer={initializer!r}: expected 'zeros', 'ones' or a function of (shape, dtype)"
        )
    return np.zeros(shape, dtype) if initializer == "zeros" else np.ones(shape, dtype)
