"""Attributes of optimizers that are arguments of the constructor too: whoever sets one later gets the same checks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from distopt.optimizers.common.face import Face


def as_constructed(optimizer: Face, name: str, value: Any, beside: Iterable[str] = ()) -> Any:
    """Return what the constructor makes of an argument: it is called, and its product thrown away.

    So there is one place for each check, and none can be forgotten. A subclass of the user's may have a constructor
    of another kind; that of distopt's class is asked, if it takes the argument. The product bears the optimizer's
    name: a name of its own would be counted, and the names of later optimizers are in checkpoints.

    Args:
        optimizer: the optimizer, complete.
        name: the argument, by which the attribute is called too.
        value: its new value.
        beside: the arguments that are checked together with it; their values are those of the optimizer.

    Raises:
        InvalidArgumentError: the constructor refuses the value.
    """
    cls = next(each for each in type(optimizer).__mro__ if each.__module__.startswith("distopt."))
    known = inspect.signature(cls).parameters
    if name not in known:
        return value
    arguments = {each: getattr(optimizer, each) for each in beside if each in known} | {name: value}
    return getattr(cls(**arguments, name=optimizer.name), name)
