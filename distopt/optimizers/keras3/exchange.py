"""State of the Keras 3 family in and out: into a store by number, or as arguments and results of a pure function."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from distopt.arrays import Array
from distopt.errors import InvalidArgumentError
from distopt.variables.variable import Variable


class _HasState(Protocol):
    name: str
    built: bool
    _trainable_variables: list[Variable]

    @property
    def variables(self) -> list[Variable]: ...
    def get_weights(self) -> list[Array]: ...
    def set_weights(self, weights: Sequence[Any]) -> None: ...
    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Variable] | None = None) -> Any: ...


class Exchange:
    """The part of the Keras 3 optimizer through which other code carries its state."""

    def save_own_variables(self: _HasState, store: MutableMapping[str, Any]) -> None:
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

    def load_own_variables(self: _HasState, store: MutableMapping[str, Any]) -> None:
        """Set the values of ``variables`` from what ``save_own_variables`` has stored.

        Args:
            store: as there; not changed.

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

    def stateless_apply(
        self: _HasState, optimizer_variables: Sequence[Any], grads: Sequence[Any], trainable_variables: Sequence[Any]
    ) -> tuple[list[Array], list[Array]]:
        """Do a step on values: neither the optimizer nor its variables are changed.

        Among replicas it sums gradients as a step does.

        Args:
            optimizer_variables: values in the order of ``variables``; not changed.
            grads: gradients in the order of the variables that the optimizer was built for.
            trainable_variables: values of those; not changed.

        Returns:
            The new values of the trainable variables and of the optimizer's.

        Raises:
            InvalidArgumentError: the optimizer is not built; lists of other lengths or shapes.

        Example:
            >>> import distopt
            >>> w = distopt.Variable([1.0])
            >>> sgd = distopt.optimizers.SGD(0.5)
            >>> sgd.build([w])
            >>> (new,), (iteration, rate) = sgd.stateless_apply([0, 0.5], [[1.0]], [[3.0]])
            >>> new, int(iteration), w.numpy()
            (array([2.5], dtype=float32), 1, array([1.], dtype=float32))

        Source: Keras 3 ``keras.optimizers.Optimizer.stateless_apply``.
        """
        if not self.built:
            raise InvalidArgumentError("stateless_apply: call build(trainable_variables) first")
        if len(trainable_variables) != len(self._trainable_variables):
            raise InvalidArgumentError(
                f"stateless_apply received {len(trainable_variables)} trainable variables, and {self.name!r} was built "
                f"for {len(self._trainable_variables)}"
            )
        with _restored(self):
            self.set_weights(optimizer_variables)
            for variable, value in zip(self._trainable_variables, trainable_variables, strict=True):
                variable.assign(value)
            self.apply(grads)
            return [variable.numpy() for variable in self._trainable_variables], self.get_weights()


@contextmanager
def _restored(optimizer: _HasState) -> Iterator[None]:
    """Set back optimizer and variables at the end."""
    state, values = optimizer.get_weights(), [variable.numpy() for variable in optimizer._trainable_variables]
    try:
        yield
    finally:
        optimizer.set_weights(state)
        for variable, value in zip(optimizer._trainable_variables, values, strict=True):
            variable.assign(value)
