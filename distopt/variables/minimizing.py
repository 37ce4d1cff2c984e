"""The gradients of a loss as ``minimize`` takes it: a function, or a value with the tape that has recorded it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distopt.arrays import is_floating
from distopt.errors import InvalidArgumentError
from distopt.variables.array_like import Traced
from distopt.variables.nests import flatten
from distopt.variables.tape import Gradient, GradientTape
from distopt.variables.variable import Variable


def compute_gradients(
    loss: Any,
    var_list: Sequence[Any] | Callable[[], Sequence[Any]],
    grad_loss: Any = None,
    tape: GradientTape | None = None,
) -> list[tuple[Gradient | None, Any]]:
    """Return the gradients that ``minimize`` applies: the gradient of ``loss`` with respect to each of the variables.

    Args:
        loss: function without arguments that returns the loss, or a traced value together with its ``tape``.
        var_list: the variables, or a function that returns them and is called after the loss.
        grad_loss: factors of the loss, element by element, in the shape of the loss. Not mutated.
        tape: the tape that recorded ``loss``.

    Returns:
        Pairs of gradient (None if the loss does not depend on the variable) and variable.

    Raises:
        InvalidArgumentError: a loss that was computed already without its tape, or a variable of integers.

    Example:
        >>> v = Variable(2.0)
        >>> [(gradient, _)] = compute_gradients(lambda: 3 * v * v, [v])
        >>> float(gradient)
        12.0

    Source: OptimizerV2._compute_gradients of tf.keras; the errors are its own.
    """
    tape, loss, variables = recorded_loss(loss, var_list, tape)
    for variable in variables:
        if not is_floating(variable.dtype):
            raise InvalidArgumentError(
                f"Invalid type {variable.dtype} of variable {getattr(variable, 'name', variable)!r}: only "
                "floating types have gradients. Leave it out of var_list."
            )
    return list(zip(tape.gradient(loss, variables, grad_loss), variables, strict=True))


def recorded_loss(
    loss: Any,
    var_list: Sequence[Any] | Callable[[], Sequence[Any]],
    tape: GradientTape | None,
    transform: Callable[[Any], Any] | None = None,
) -> tuple[GradientTape, Any, list[Any]]:
    """Return a tape, the loss that it has recorded, and the variables to differentiate by.

    Args:
        loss: as for ``compute_gradients``; a function is called under the tape.
        var_list: likewise.
        tape: likewise.
        transform: what is made of the loss before it is differentiated.

    Raises:
        InvalidArgumentError: a loss that was computed already without its tape; something else than variables.
    """
    if not callable(loss) and tape is None:
        raise InvalidArgumentError(
            "`tape` is required when the loss was computed already: give the GradientTape that recorded it, "
            "as in minimize(loss, var_list, tape=tape), or pass the loss as a function."
        )
    transform = transform or (lambda value: value)
    tape = GradientTape() if tape is None else tape
    if callable(loss):
        with tape:
            if not callable(var_list):
                tape.watch([variable for variable in flatten(var_list) if isinstance(variable, Variable)])
            loss = transform(loss())
    else:
        loss = transform(loss)
    variables = list(flatten(var_list() if callable(var_list) else var_list))
    for variable in variables:
        if not isinstance(variable, Variable | Traced):
            raise InvalidArgumentError(f"var_list holds {variable!r}: expected a list of distopt.Variable")
    return tape, loss, variables
