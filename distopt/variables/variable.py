"""The variable: a named array that is trained; in NumPy expressions it stands for its value."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distopt.arrays import Array, cast, to_array, to_dtype
from distopt.errors import ForeignVariableError, InvalidArgumentError
from distopt.initializers import get as get_initializer
from distopt.memory.storage import Storage
from distopt.process.moments import ACTIVE, Moment
from distopt.process.names import unique_name
from distopt.process.observers import observe
from distopt.process.replica import current_replica
from distopt.variables.array_like import Traced, snapshot
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.row_updates import RowUpdates
from distopt.variables.values import value_of

Constraint = Callable[[Array], Any]

_numbers = itertools.count()

DEVICE = "CPU:0"
"""The device that holds the values of all variables."""


class Variable(RowUpdates):
    """A named array with an optional constraint; it belongs to the replica that made it.

    In NumPy expressions a variable stands for its value; under an open ``GradientTape`` for a value that the
    tape follows.

    Args:
        initial_value: array-like of any shape, or a callable that returns one; copied. NumPy arrays keep
            their dtype, numbers of Python (and lists of them) become float32. With ``shape``: also the name of an
            initializer, or a function of (shape, dtype).
        name: a name, which need not be unique; by default "variable", "variable_1", ...
        dtype: float16, bfloat16, float32, float64, an integer type or bool; by default the value's own.
        trainable: whether tapes watch the variable when it is read.
        constraint: function of the value that returns the value to keep; optimizers call it after an update.
        initializer: ``initial_value`` under the name that Keras gives it.
        shape: the shape; it is needed where ``initial_value`` is an initializer.
        regularizer: kept as an attribute for its user; no optimizer and no loss adds it.
        aggregation: kept likewise, as ``synchronization``: every replica assigns its own value.
        synchronization: kept likewise.

    Raises:
        InvalidArgumentError: the value does not consist of numbers, or the constraint cannot be called.
        ForeignVariableError: at any use by another replica.

    Example:
        >>> w = Variable([1.0, 2.0], name="w")
        >>> w * 3 + 1
        array([4., 7.], dtype=float32)
        >>> w.assign_sub([0.5, 0.5])
        <Variable 'w' shape=(2,) dtype=float32 value=[0.5 1.5]>
    """

    _is_overwritten = False

    def __init__(
        self,
        initial_value: Any = None,
        *,
        name: str | None = None,
        dtype: npt.DTypeLike | None = None,
        trainable: bool = True,
        constraint: Constraint | None = None,
        initializer: Any = None,
        shape: Sequence[int] | None = None,
        regularizer: Any = None,
        aggregation: Any = "none",
        synchronization: Any = "auto",
    ) -> None:
        self.owner = current_replica()
        """The replica that made this variable."""
        self.number = next(_numbers)
        """Tells which of a replica's variables was made first; replicas make them in the same order."""
        self.name = unique_name("variable") if name is None else str(name)
        self.trainable = bool(trainable)
        if not (constraint is None or callable(constraint)):
            raise InvalidArgumentError(
                f"constraint of variable {self.name!r} is {constraint!r}, which cannot be called. "
                "Give a function of the value, such as distopt.constraints.NonNeg()."
            )
        self.constraint, self.regularizer = constraint, regularizer
        self.aggregation, self.synchronization = aggregation, synchronization
        value = _initial(initializer if initial_value is None else initial_value, shape, dtype, self.name)
        array = _plain(value, f"the initial value of variable {self.name!r}")
        if dtype is not None:
            array = cast(array, to_dtype(dtype), f"variable {self.name!r}")
        self.storage = Storage(np.array(array, order="C"))

    @property
    def overwrite_with_gradient(self) -> bool:
        """Return whether optimizers of the Keras 3 family set the variable to its gradient, in place of a step."""
        return self._is_overwritten

    @overwrite_with_gradient.setter
    def overwrite_with_gradient(self, value: bool) -> None:
        self._is_overwritten = bool(value)
        self.owner.overwrites = self.owner.overwrites or self._is_overwritten

    def check_owner(self) -> None:
        """Refuse the use by another replica than the one that made this variable.

        Raises:
            ForeignVariableError: another replica has made this variable.
        """
        replica = current_replica()
        if replica is not self.owner:
            raise ForeignVariableError(
                f"Variable {self.name!r} was made by {self.owner.name} and is used by {replica.name}; "
                "replicas share no variables. Create it inside the function given to simulate."
            )

    def _own(self) -> Array:
        self.check_owner()
        return self.storage.view

    def as_operand(self) -> Any:
        """Return the value as an expression sees it: live memory, or a traced value where an open tape follows it."""
        value: Any = self._own()
        if not self.owner.tapes:
            return value if self.owner.of_thread.updating is None else value_of(value)
        for tape in self.owner.tapes:  # outermost first
            value = tape.follow(self, value)
        # A constant of the trace must not change with later assignments.
        return value.copy() if value is self.storage.view else value

    @property
    def path(self) -> str:
        """Return the name, as Keras' variables do."""
        return self.name

    @property
    def device(self) -> str:
        """Return the device that holds the value: always "CPU:0"."""
        return DEVICE

    @property
    def value(self) -> Array:
        """Return a read-only live view of the memory; read it again after an optimizer was built over the variable."""
        return self._own()

    def read_value(self) -> Any:
        """Return a copy of the value as an expression sees it."""
        return snapshot(self.as_operand())

    def ref(self) -> Reference:
        """Return a key for dicts and sets that compares by identity; ``key.deref()`` returns the variable."""
        return Reference(self)

    def assign(
        self, value: Any, use_locking: bool = False, name: str | None = None, read_value: bool = True
    ) -> Variable:
        """Set the value: ``variable ← value``.

        Args:
            value: array-like of the variable's shape; cast to its dtype; not mutated.
            use_locking: ignored, as ``name`` and ``read_value``; they exist for code that was written for TensorFlow.
            name: ignored.
            read_value: ignored.

        Returns:
            This variable.

        Raises:
            CollectiveMismatchError: with ``update="shared"``, if replicas assign different values.
            InvalidArgumentError: another shape, or a dtype that would lose the number (2.5 into int64).
        """
        self._own()
        if isinstance(value, IndexedSlices):
            raise InvalidArgumentError(
                f"assign to variable {self.name!r} received IndexedSlices, which name only some rows: "
                "variable.scatter_update(slices) sets these, variable.assign(slices.to_dense()) makes the others 0"
            )
        self._write(self._fitting(value, "assign"))
        return self

    def assign_add(
        self, delta: Any, use_locking: bool = False, name: str | None = None, read_value: bool = True
    ) -> Variable:
        """Add in place: ``variable ← variable + delta``; rows of IndexedSlices are summed, then added.

        Args:
            delta: array-like of the variable's shape, or IndexedSlices; not mutated.
            use_locking: ignored, as ``name`` and ``read_value``.
            name: ignored.
            read_value: ignored.

        Returns:
            This variable.

        Raises:
            InvalidArgumentError: as for ``assign``.

        Example:
            >>> w = Variable([0.0, 0.0, 0.0], name="w")
            >>> w.assign_add(IndexedSlices([1.0, 2.0], [2, 2], (3,))).numpy()
            array([0., 0., 3.], dtype=float32)
        """
        return self._update(np.add, delta, "assign_add")

    def assign_sub(
        self, delta: Any, use_locking: bool = False, name: str | None = None, read_value: bool = True
    ) -> Variable:
        """Subtract in place: ``variable ← variable - delta``; otherwise as ``assign_add``."""
        return self._update(np.subtract, delta, "assign_sub")

    def _update(self, operation: np.ufunc, delta: Any, what: str) -> Variable:
        self._own()
        if isinstance(delta, IndexedSlices):
            values = cast(delta.values, self.dtype, f"{what} to variable {self.name!r}")
            rows = IndexedSlices(values, delta.indices, self.shape).deduplicate()
            result = self.storage.array.copy()
            result[rows.indices] = operation(self.storage.array[rows.indices], rows.values)
        else:
            result = operation(self.storage.array, self._fitting(delta, what), dtype=self.dtype)
        self._write(result)
        return self

    def _write(self, value: Array) -> None:
        """Replace the value; where replicas of a node share the memory, all of them do so together."""
        if ACTIVE:
            observe(Moment.ASSIGN, self)
        shared_by = self.storage.shared_by
        if shared_by is None:
            self.storage.array[...] = value
        else:
            shared_by.write(self.name, self.storage.array, value)
        self.storage.note_write()

    def _fitting(self, value: Any, what: str) -> Array:
        array = _plain(value, f"{what} to variable {self.name!r}: the value", numbers=None)
        if array.shape != self.shape:
            raise InvalidArgumentError(
                f"{what} to variable {self.name!r} of shape {self.shape} received shape {array.shape}, and "
                "values are not broadcast here. Give the full shape: np.broadcast_to(value, variable.shape)."
            )
        return cast(array, self.dtype, f"{what} to variable {self.name!r}")

    def __reduce__(self) -> Any:
        return _restore, (self.numpy(), self.name, self.trainable, self.constraint, self._is_overwritten)


class Reference:
    """The result of ``Variable.ref``; two references are equal if they mean the same variable."""

    def __init__(self, variable: Variable) -> None:
        self._variable = variable

    def deref(self) -> Variable:
        """Return the variable."""
        return self._variable

    def __hash__(self) -> int:
        return id(self._variable)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and other._variable is self._variable


def _plain(value: Any, what: str, numbers: Any = np.float32) -> Array:
    """Return ``value`` as an array that no tape follows: an assigned value is a constant."""
    if isinstance(value, Variable):
        return value.value
    return to_array(value.numpy() if isinstance(value, Traced) else value, what, numbers)


def _initial(given: Any, shape: Sequence[int] | None, dtype: npt.DTypeLike | None, name: str) -> Any:
    """Return an initial value, in the shape that was asked for."""
    if isinstance(given, str) and shape is not None:
        given = get_initializer(given)
    if not callable(given):
        value = given
    elif shape is None:
        value = given()
    else:
        value = given(tuple(shape), to_dtype(dtype or "float32"))
    if given is None or (shape is not None and np.shape(value) != tuple(shape)):
        raise InvalidArgumentError(
            f"variable {name!r} of shape {shape} received {given!r} as its initial value, of shape {np.shape(value)}: "
            "give an array of that shape, or the name of an initializer, such as 'zeros'"
        )
    return value


def _restore(
    array: Array, name: str, trainable: bool, constraint: Constraint | None, overwritten: bool = False
) -> Variable:
    variable = Variable(array, name=name, trainable=trainable, constraint=constraint)
    if overwritten:
        variable.overwrite_with_gradient = True
    return variable
