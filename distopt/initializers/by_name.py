"""Initializers by name, as plain dictionaries, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distopt.initializers.constant import Initializer
from distopt.registry import describe, get_object, make

_PACKAGE = "distopt.initializers"
_KIND = "an initializer"
_ALIASES = {
    "zero": "Zeros",
    "one": "Ones",
    "normal": "RandomNormal",
    "uniform": "RandomUniform",
    "IdentityInitializer": "Identity",
    "OrthogonalInitializer": "Orthogonal",
}


def serialize(initializer: Initializer) -> dict[str, Any]:
    """Return an initializer as a dictionary that ``deserialize`` reads."""
    return describe(initializer, _PACKAGE, Initializer)


def deserialize(config: Mapping[str, Any], custom_objects: Mapping[str, type] | None = None) -> Initializer:
    """Make the initializer that ``serialize`` described.

    Raises:
        InvalidArgumentError: no such dictionary; an unknown class, with the nearest match.
    """
    made: Initializer = make(_KIND, config, _PACKAGE, Initializer, custom_objects)
    return made


def get(identifier: Any) -> Any:
    """Return an initializer: by its name, by its dictionary, of its class, or the function given; None for None.

    Example:
        >>> get("glorot_uniform")((2, 3)).shape
        (2, 3)

    Source: Keras 3, ``keras.initializers.get``.
    """
    if isinstance(identifier, str):
        identifier = _ALIASES.get(identifier, identifier)
    return get_object(_KIND, identifier, _PACKAGE, Initializer)
