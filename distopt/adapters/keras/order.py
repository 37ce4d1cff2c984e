"""The order of gradients: Keras hands them over as it likes, and distopt has the variables in one order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distopt.errors import InvalidArgumentError


def in_order(grads: Sequence[Any], variables: Sequence[Any], built: Sequence[Any]) -> list[Any]:
    """Return gradients in the order of the built variables; None where a variable has no gradient.

    Args:
        grads: the gradients.
        variables: their variables.
        built: the variables that the optimizer was built for.

    Raises:
        InvalidArgumentError: another number of gradients than of variables; a variable that was not built.
    """
    places = {id(variable): k for k, variable in enumerate(built)}
    ordered: list[Any] = [None] * len(places)
    if len(grads) != len(variables):
        raise InvalidArgumentError(f"apply received {len(grads)} gradients for {len(variables)} variables")
    for gradient, variable in zip(grads, variables, strict=True):
        if id(variable) not in places:
            raise unknown(variable)
        ordered[places[id(variable)]] = gradient
    return ordered


def unknown(variable: Any) -> InvalidArgumentError:
    """Return the error about a variable that the optimizer was not built for."""
    return InvalidArgumentError(
        f"variable {variable.path!r} is none of those that this optimizer was built for: after a change of what is "
        "trained (layer.trainable, another model) compile with another DistributedOptimizer"
    )
