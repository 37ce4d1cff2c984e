"""Losses by name, as plain dictionaries, and back."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from distopt.losses.loss import Loss
from distopt.registry import describe, get_object, make

_PACKAGE = "distopt.losses"


def serialize(loss: Any) -> Any:
    """Return a loss as a dictionary that ``deserialize`` reads; a loss that is a function as its name."""
    return describe(loss, _PACKAGE, Loss) if isinstance(loss, Loss) else loss.__name__


def deserialize(name: Any, custom_objects: Mapping[str, type] | None = None) -> Any:
    """Make the loss that ``serialize`` described, or return the function of a name.

    Raises:
        InvalidArgumentError: no such dictionary; an unknown class, with the nearest match.
    """
    if isinstance(name, str):
        return get((custom_objects or {}).get(name, name))
    return make("a loss", name, _PACKAGE, Loss, custom_objects)


def get(identifier: Any) -> Any:
    """Return a loss: by the name of a function or class, by its dictionary, of its class, or what is given.

    Example:
        >>> get("mse").__name__, get("MeanSquaredError").name
        ('mean_squared_error', 'mean_squared_error')

    Source: Keras 3, ``keras.losses.get``.
    """
    if isinstance(identifier, str):
        module = import_module(_PACKAGE)
        known = getattr(module, identifier, None) if identifier in module.__all__ else None
        if callable(known) and not isinstance(known, type):
            return known
    return get_object("a loss", identifier, _PACKAGE, Loss)
