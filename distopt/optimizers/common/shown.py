"""Optimizers and schedules as people see them: as the call that makes such a one."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from distopt.process.names import snake_case
from distopt.variables.variable import Variable


@functools.cache
def defaults_of(cls: type) -> Mapping[str, Any]:
    """Return the named arguments of a class's constructor, and of those that it hands arguments on to: the defaults."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1]):
        if "__init__" in vars(base):
            parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
            found |= {each.name: each.default for each in named}
    return found


def as_call(thing: Any, config: Callable[[], Mapping[str, Any]]) -> str:
    """Return the call that makes such an optimizer or schedule, without arguments that have their defaults.

    Args:
        thing: the optimizer or schedule.
        config: returns its arguments, as they are or as its config has them.
    """
    cls: type = type(thing)
    try:
        shown = [
            f"{name}={_text(getattr(thing, name, value) if _is_description(value) else value)}"
            for name, value in config().items()
            if name == "learning_rate" or not _goes_without_saying(cls, name, value)
        ]
    except Exception:  # a method of the user's, of a thing that is not complete
        return object.__repr__(thing)
    return f"{cls.__name__}({', '.join(shown)})"


def _goes_without_saying(cls: type, name: str, value: Any) -> bool:
    if name == "name" and re.fullmatch(rf"{snake_case(cls.__name__)}(_\d+)?", str(value)):
        return True
    return _text(value) == _text(defaults_of(cls).get(name))


def _is_description(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_name" in value


def _text(value: Any) -> str:
    """Return a value as people write it: 0.1 for the number of float32 that is nearest to it."""
    if isinstance(value, Variable) and value.shape == ():
        value = value.storage.array[()]
    if isinstance(value, float | np.floating):
        with np.errstate(over="ignore"):
            short = np.float32(value)
        return str(short) if float(short) == float(value) else repr(float(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if _is_description(value):
        return f"{value['class_name']}(...)"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_text(each)}' for key, each in value.items())}}}"
    return repr(value)
