"""Attributes of optimizers that are arguments of the constructor too: whoever sets one later gets the same checks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any

from distopt.optimizers.common.face import Face


def as_constructed(optimizer: Face, name: str, value: Any, beside: Iterable[str] = ()) -> Any:
    """Return what the constructor makes of an argument: it is called on an object that is thrown away.

    So there is one place for each check, and none can be forgotten. A subclass of the user's may have a constructor
    of another kind; that of distopt's class is asked, if it takes the argument. The constructor of the base class does
    nothing for that object (``_distopt_is_probe``): it would make a whole engine, each time an attribute is set.

    Args:
        optimizer: the optimizer, complete.
        name: the argument, by which the attribute is called too; not one of the base class.
        value: its new value.
        beside: the arguments that are checked together with it; their values are those of the optimizer.

    Raises:
        InvalidArgumentError: the constructor refuses the value.
    """
    cls, known = _constructor(type(optimizer))
    if name not in known:
        return value
    probe: Any = object.__new__(cls)
    probe.__dict__["_distopt_is_probe"] = True
    probe.__init__(**{each: getattr(optimizer, each) for each in beside if each in known} | {name: value})
    return getattr(probe, name)


@functools.cache
def _constructor(cls: type) -> tuple[type, frozenset[str]]:
    """Return distopt's own class among those of an optimizer, and the arguments of its constructor."""
    own = next(each for each in cls.__mro__ if each.__module__.startswith("distopt."))
    return own, frozenset(inspect.signature(own).parameters)
