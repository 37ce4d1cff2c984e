"""The variables that an optimizer of the Keras 3 family makes, and those that the user puts into its attributes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from distopt.arrays import to_dtype
from distopt.engine.state.options import StepOptions
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.base import BaseOptimizer
from distopt.optimizers.common.initializers import value_of_shape
from distopt.optimizers.common.tracking import variables_in
from distopt.optimizers.keras3.hooks import NO_HOOKS, Hooks, hooks_of, may_be_hook
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable

_NUMBERED = re.compile(r"([Vv]ariable)_\d+")
"""Names that variables get where the user gives none."""

_MAY_BE_STATE = (Variable, list, tuple, set, frozenset, dict)


class OwnVariables(BaseOptimizer):
    """The variables of an optimizer of the Keras 3 family; not for users.

    A Variable that is an attribute, or in a list, tuple, set or dict that is one, is part of the state, as in Keras.

    Args:
        name: the optimizer's name.
        options: the options of a step that the user has given.
    """

    _distopt_step_counter: Variable

    def __init__(self, name: str, options: StepOptions) -> None:
        super().__init__(options)
        self.name = name
        self._distopt_own_variables: dict[Variable, None] = {}
        self._distopt_unlisted: dict[Variable, None] = {}
        self._distopt_untracked: set[Variable] = set()
        self._distopt_seen: dict[str, tuple[Any, int]] = {}
        self.built = False
        self._trainable_variables: list[Variable] = []
        self._distopt_indices: dict[Any, int] = {}

    # Which methods are the user's

    _distopt_not_called: ClassVar[tuple[str, ...]] = ()
    """Upstream's methods of this class, that are not called here."""
    _distopt_not_called_by_rule: ClassVar[tuple[str, ...]] = (
        "assign",
        "assign_add",
        "assign_sub",
        "add_variable",
        "iterations",
    )
    """The methods that a class without an update method of the user's does not call."""

    _distopt_hooks: Hooks = NO_HOOKS
    _distopt_is_flat = False
    """True where a rule updates, and needs nothing beside gradients, whole buffers at a time."""

    @property
    def _distopt_own_hooks(self) -> Hooks:
        """Return what the user has written, on the class or on this optimizer."""
        own = frozenset(name for name in self.__dict__ if may_be_hook(type(self), name))
        return hooks_of(type(self), own)

    def _distopt_note_hooks(self) -> None:
        """Note once what the user has written; a step reads only the result.

        Raises:
            NotImplementedError: a method that would not be called.
        """
        hooks = self._distopt_own_hooks
        if hooks.refusal is not None:
            raise NotImplementedError(hooks.refusal)
        self.__dict__["_distopt_hooks"] = hooks

    def _distopt_count_in(self, counter: Any) -> None:
        """Count calls in a Variable of the user's from now on."""
        raise NotImplementedError

    # Tracking

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_iterations":
            self._distopt_count_in(value)
            return
        super().__setattr__(name, value)
        if isinstance(value, _MAY_BE_STATE):
            if not _is_state(name) or self.__dict__.get(name) is not value:  # what a property keeps it sets itself
                return
            if isinstance(value, Variable) and "_distopt_own_variables" in self.__dict__:
                self._distopt_track(value)
            else:  # what is in a list may change
                self.__dict__["_distopt_holds_state"] = True
        elif callable(value) and may_be_hook(type(self), name):
            self._distopt_note_hooks()

    def _distopt_tracked(self) -> list[Variable]:
        """Return the variables of this optimizer that are neither its counter nor its learning rate."""
        self._distopt_seen.clear()
        self._distopt_look_for_new()
        return list(self._distopt_own_variables)

    def _distopt_look_for_new(self) -> None:
        """Track what has been put into attributes; of containers, where they have become longer since the last look."""
        if not self.__dict__.get("_distopt_holds_state"):
            return
        for name, value in list(self.__dict__.items()):
            if isinstance(value, _MAY_BE_STATE) and _is_state(name):
                size = 1 if isinstance(value, Variable) else len(value)
                last, begin = self._distopt_seen.get(name, (None, 0))
                if last is not value or size != begin:
                    new = value[begin:] if last is value and isinstance(value, list) else value
                    for variable in variables_in(new):
                        self._distopt_track(variable)
                    self._distopt_seen[name] = value, size

    def _distopt_track(self, variable: Variable) -> None:
        if variable not in self._distopt_untracked and not self._distopt_is_counted(variable):
            own = self._distopt_own_variables
            # In Keras 2.11 to 2.15 checkpoints held attributes, but no list of weights.
            listed = self._distopt_unlisted if self._distopt_hooks.is_former and variable not in own else own
            listed[variable] = None

    def _distopt_is_counted(self, variable: Variable) -> bool:
        """Return whether a variable is one of the state by another name: the counter or the learning rate."""
        return False

    def _track_variable(self, variable: Any) -> None:
        """Make a variable, or those in a list, part of the state, after what was put into attributes before them."""
        self._distopt_look_for_new()
        for each in variables_in(variable):
            self._distopt_untracked.discard(each)
            self._distopt_unlisted.pop(each, None)
            if not self._distopt_is_counted(each):
                self._distopt_own_variables[each] = None

    def _untrack_variable(self, variable: Variable) -> None:
        """Take a variable out of the optimizer's state."""
        self._distopt_own_variables.pop(variable, None)
        self._distopt_untracked.add(variable)

    # Making variables

    def _check_super_called(self) -> None:
        """Raise an error where ``__init__`` of a subclass has not called that of its base."""
        if "_distopt_engine" not in self.__dict__:
            raise RuntimeError(f"{type(self).__name__}.__init__ did not call super().__init__(...): call it first")

    def add_variable(
        self,
        shape: Sequence[int],
        initializer: Any = "zeros",
        dtype: Any = None,
        aggregation: Any = None,
        layout: Any = None,
        name: str | None = None,
    ) -> Variable:
        """Make a variable of the optimizer.

        Args:
            shape: the shape of the variable.
            initializer: ``"zeros"``, ``"ones"``, ``"random_normal"`` or another name, a function of (shape, dtype), or
                an array. Random values are the same on every replica.
            dtype: float32 by default.
            aggregation: ignored: every replica computes the same state.
            layout: ignored.
            name: the name of the variable.
        """
        self._check_super_called()
        value = value_of_shape(initializer, tuple(shape), to_dtype(dtype or "float32"))
        variable = Variable(value, name=name, trainable=False)
        self._track_variable(variable)
        return variable

    def add_variable_from_reference(
        self, reference_variable: Variable, name: str | None = None, initializer: Any = "zeros"
    ) -> Variable:
        """Make a slot: a variable with shape and dtype of a trained variable.

        Args:
            reference_variable: the trained variable.
            name: the slot's name; the variable is called ``{optimizer}/{reference}_{name}``.
            initializer: as for ``add_variable``.
        """
        self._check_super_called()
        label = name or "slot"
        if self._distopt_hooks.makes or self._var_key(reference_variable) not in self._distopt_indices:
            shape, dtype = reference_variable.shape, self._distopt_slot_dtype(reference_variable)
            path = self._distopt_path(reference_variable, label)
            return self.add_variable(shape, initializer=initializer, dtype=dtype, name=path)
        return self._distopt_add_slot(reference_variable, label, initializer)

    def _distopt_path(self, reference: Variable, label: str) -> str:
        path = reference.path.replace("/", "_")
        if self._var_key(reference) not in self._distopt_indices:
            path = _NUMBERED.sub(
                r"\1", path
            )  # a number of one process says nothing in another, which reads checkpoints
        return f"{self.name}/{path}_{label}"

    def _distopt_add_slot(self, reference: Variable, label: str, initializer: Any = "zeros") -> Variable:
        path = self._distopt_path(reference, label)
        value = value_of_shape(initializer, reference.shape, self._distopt_slot_dtype(reference))
        if (reference, label) in self._distopt_engine.slots.table:
            label = f"{label}_{len(self._distopt_engine.slots.table)}"
        slot = self._distopt_new_slot(reference, label, path, value)
        self._track_variable(slot)
        return slot

    def add_optimizer_variables(
        self, trainable_variables: Sequence[Variable], name: str | Sequence[str], initializer: Any = "zeros"
    ) -> Any:
        """Make slots of trained variables, variable by variable.

        Args:
            trainable_variables: the trained variables.
            name: a name, or several.
            initializer: as for ``add_variable``; a list of such where there are several names.

        Returns:
            A list with one slot for each variable, None for one that is overwritten by its gradient; where there are
            several names, a tuple of such lists.

        Raises:
            InvalidArgumentError: another number of initializers than of names.
        """
        names = [name] if isinstance(name, str) else list(name)
        is_list = not isinstance(name, str) and isinstance(initializer, (list, tuple))
        initializers = list(initializer) if is_list else [initializer] * len(names)
        if len(initializers) != len(names):
            raise InvalidArgumentError(
                f"add_optimizer_variables received the names {names} and {len(initializers)} initializers: give one "
                "initializer, or one for each name"
            )
        slots: tuple[list[Variable | None], ...] = tuple([] for _ in names)
        for variable in trainable_variables:
            overwritten = self._overwrite_variable_with_gradient(variable)
            for made, label, first in zip(slots, names, initializers, strict=True):
                made.append(None if overwritten else self.add_variable_from_reference(variable, label, first))
        return slots[0] if isinstance(name, str) else slots

    def _overwrite_variable_with_gradient(self, variable: Variable) -> bool:
        """Return whether a variable is overwritten by its gradient in each step."""
        return bool(getattr(variable, "overwrite_with_gradient", False))

    @property
    def _distopt_may_overwrite(self) -> bool:
        """Return whether a gradient may overwrite its variable; before it is built, nobody knows which it steps."""
        if not (self._distopt_step_counter.owner.overwrites or self._distopt_hooks.overwrites):
            return False
        return not self.built or any(map(self._overwrite_variable_with_gradient, self._trainable_variables))

    # Writing variables

    def assign(self, variable: Variable, value: Any, use_locking: bool = False, read_value: bool = True) -> None:
        """Set a variable, or the rows of it that IndexedSlices name; the last two arguments are ignored."""
        if isinstance(value, IndexedSlices):
            rows, value = value, variable.numpy()
            value[rows.indices] = rows.values
        variable.assign(value)

    def assign_add(self, variable: Variable, value: Any, use_locking: bool = False, read_value: bool = True) -> None:
        """Add to a variable; the last two arguments are ignored."""
        variable.assign_add(value)

    def assign_sub(self, variable: Variable, value: Any, use_locking: bool = False, read_value: bool = True) -> None:
        """Subtract from a variable; the last two arguments are ignored."""
        variable.assign_sub(value)

    # Finding variables

    def _var_key(self, variable: Variable) -> Any:
        """Return what tells a trained variable from the others."""
        return id(variable)

    def _get_variable_index(self, variable: Variable) -> int:
        index = self._distopt_indices.get(self._var_key(variable))
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

    def _check_variables_are_known(self, variables: Sequence[Variable]) -> None:
        """Raise an error if the optimizer was not built for one of the variables."""
        for variable in variables:
            self._get_variable_index(variable)

    def _distopt_index_variables(self) -> None:
        self._distopt_indices = {self._var_key(variable): k for k, variable in enumerate(self._trainable_variables)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._distopt_note_hooks()
        self._distopt_index_variables()


def _is_state(name: str) -> bool:
    return name != "_trainable_variables" and not name.startswith("_distopt_")
