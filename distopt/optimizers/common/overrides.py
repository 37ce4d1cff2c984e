"""Tells whether the user has written a method of an optimizer: what distopt has written, distopt need not call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_OURS = f"{Path(__file__).parents[1]}/"


def is_users(attribute: Any) -> bool:
    """Return whether a method, a property or another attribute comes from outside of ``distopt.optimizers``.

    The file of its code tells it: a class may be decorated, made by a function, or stand in a docstring.

    Example:
        >>> from distopt.optimizers import SGD
        >>> class Mine(SGD):
        ...     def build(self, variables):
        ...         super().build(variables)
        >>> is_users(Mine.build), is_users(Mine.apply)
        (True, False)
    """
    if isinstance(attribute, property):
        return any(is_users(part) for part in (attribute.fget, attribute.fset) if part is not None)
    code = getattr(getattr(attribute, "__func__", attribute), "__code__", None)
    return code is None or not code.co_filename.startswith(_OURS)


def is_overridden(cls: type, name: str) -> bool:
    """Return whether the user has written what a class has under a name; False where it has nothing."""
    attribute = getattr(cls, name, None)
    return attribute is not None and is_users(attribute)
