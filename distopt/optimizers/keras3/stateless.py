"""Does a step of the Keras 3 family as a pure function: takes and returns state and values, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from distopt.arrays import Array
from distopt.errors import InvalidArgumentError
from distopt.variables.variable import Variable


class Stepping(Protocol):
    """The methods of an optimizer that a pure step needs."""

    name: str
    built: bool

    def get_weights(self) -> list[Array]:
        """Return the values of the state."""

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the values of the state."""

    def apply(self, grads: Sequence[Any]) -> Any:
        """Do a step on the variables that the optimizer was built for."""


def step_on_values(
    optimizer: Stepping,
    trained: Sequence[Variable],
    optimizer_variables: Sequence[Any],
    grads: Sequence[Any],
    trainable_variables: Sequence[Any],
) -> tuple[list[Array], list[Array]]:
    """Do a step on values: neither the optimizer nor its variables are changed.

    Args:
        optimizer: the optimizer that does the step.
        trained: the variables for which the optimizer was built.
        optimizer_variables: values of the optimizer's state; not changed.
        grads: gradients in the order of ``trained``.
        trainable_variables: values of ``trained``; not changed.

    Returns:
        The new values of the trained variables and of the optimizer's state.

    Raises:
        InvalidArgumentError: the optimizer is not built; lists of other lengths or shapes.
    """
    if not optimizer.built:
        raise InvalidArgumentError("stateless_apply: call build(trainable_variables) first")
    if len(trainable_variables) != len(trained):
        raise InvalidArgumentError(
            f"stateless_apply received {len(trainable_variables)} trainable variables, and {optimizer.name!r} was "
            f"built for {len(trained)}"
        )
    with _restored(optimizer, trained):
        optimizer.set_weights(optimizer_variables)
        for variable, value in zip(trained, trainable_variables, strict=True):
            variable.assign(value)
        optimizer.apply(grads)
        return [variable.numpy() for variable in trained], optimizer.get_weights()


@contextmanager
def _restored(optimizer: Stepping, trained: Sequence[Variable]) -> Iterator[None]:
    """Restore the state of optimizer and variables at the end of the block."""
    state, values = optimizer.get_weights(), [variable.numpy() for variable in trained]
    try:
        yield
    finally:
        optimizer.set_weights(state)
        for variable, value in zip(trained, values, strict=True):
            variable.assign(value)
