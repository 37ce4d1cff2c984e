"""Attributes that are set later: arguments of the constructor too get its checks, and misspelt names are a warning."""

from __future__ import annotations

import difflib
import functools
import inspect
import warnings
from collections.abc import Iterable
from typing import Any

from distopt.optimizers.common.face import Face
from distopt.optimizers.common.shown import defaults_of

_ALIKE = 0.85
"""The likeness from which a name is misspelt: ``learn_rate`` is, for ``learning_rate``; ``beta_3`` is not."""


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


def warn_of_misspelt(optimizer: Any, name: str) -> None:
    """Warn of a new attribute that is called nearly like one that distopt knows: it would change nothing.

    Other names are the user's own, and so are all attributes of a subclass.

    Args:
        optimizer: the optimizer that gets the attribute.
        name: the attribute.
    """
    cls: type = type(optimizer)
    if not cls.__module__.startswith("distopt.") or name in optimizer.__dict__ or hasattr(cls, name):
        return
    known = _settable(cls)
    meant = [] if name in known else difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE)
    if meant:
        text = f"{cls.__name__} knows no {name!r}, and this attribute changes nothing: did you mean {meant[0]!r}?"
        warnings.warn(text, stacklevel=3)


@functools.cache
def _settable(cls: type) -> frozenset[str]:
    """Return the attributes of a class that can be set: arguments of its constructors, and properties."""
    properties = {
        n for base in cls.__mro__ for n, each in vars(base).items() if isinstance(each, property) and each.fset
    }
    return frozenset(name for name in {*properties, *defaults_of(cls)} if not name.startswith("_"))
