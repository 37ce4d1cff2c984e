"""Finds classes by name: those of distopt, those that were registered, and those passed to a call."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Any, TypeVar

from distopt.errors import InvalidArgumentError

T = TypeVar("T")

_registered: dict[str, type] = {}
_passed: ContextVar[Mapping[str, type]] = ContextVar("custom_objects")


def register(cls: type[T]) -> type[T]:
    """Make a class of your own known by its name: a decorator for optimizers and schedules.

    ``get`` and ``deserialize`` of both families and of schedules then find it without ``custom_objects``.

    Args:
        cls: the class; it is returned as it is.

    Raises:
        InvalidArgumentError: ``cls`` is no class, or another class has been registered under this name.

    Example:
        >>> import distopt
        >>> @register
        ... class Plain(distopt.optimizers.SGD):
        ...     pass
        >>> distopt.optimizers.get("plain").name
        'plain'

    Source: Keras 3, ``keras.saving.register_keras_serializable``; here a name has no package in front of it.
    """
    if not isinstance(cls, type):
        raise InvalidArgumentError(f"register received {cls!r}: expected a class, above which it stands as @register")
    known = _registered.get(cls.__name__, cls)
    # The same lines run again, as notebooks do, replace the class.
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise InvalidArgumentError(
            f"register received {cls!r}, and {known!r} is registered under this name: rename one of them, or pass "
            f"custom_objects={{{cls.__name__!r}: ...}} where it is needed"
        )
    _registered[cls.__name__] = cls
    return cls


@contextmanager
def passing(custom_objects: Mapping[str, type] | None) -> Iterator[None]:
    """Make these classes known in the block, also to nested calls: for an optimizer or a schedule in an optimizer."""
    token = _passed.set({**_passed.get({}), **(custom_objects or {})})
    try:
        yield
    finally:
        _passed.reset(token)


def built_in(package: str, base: type) -> dict[str, type]:
    """Return the public classes of one of distopt's packages that are subclasses of ``base``."""
    module = importlib.import_module(package)
    classes = [getattr(module, name) for name in module.__all__]
    found = [cls for cls in classes if isinstance(cls, type) and issubclass(cls, base) and cls is not base]
    return {cls.__name__: cls for cls in found if cls.__name__ != "Optimizer"}  # the base of its family


def describe(thing: Any, package: str, base: type) -> dict[str, Any]:
    """Return the dictionary of an optimizer or schedule, in the format of Keras 3.

    Raises:
        InvalidArgumentError: the config can't be written as JSON.
    """
    cls, config = type(thing), thing.get_config()
    try:
        json.dumps(config)
    except TypeError as error:
        raise InvalidArgumentError(
            f"the config of {cls.__name__} can't be written as JSON ({error}): {config!r}. A learning rate that is a "
            "function can't be saved: make it a LearningRateSchedule; return numbers of Python from get_config"
        ) from error
    ours = built_in(package, base).get(cls.__name__) is cls
    return {
        "module": package if ours else cls.__module__,
        "class_name": cls.__name__,
        "config": config,
        "registered_name": None if ours else cls.__name__,
    }


def find(kind: str, config: Any, package: str, base: type) -> Any:
    """Return the class that a dictionary names: passed ones first, then as ``registered_name`` says.

    Args:
        kind: the word for the object in messages.
        config: the dictionary.
        package: the package of the built-in classes.
        base: the common base of these classes.

    Raises:
        InvalidArgumentError: no such dictionary; an unknown name.
    """
    entries = config if isinstance(config, Mapping) else {}
    if not (isinstance(entries.get("class_name"), str) and isinstance(entries.get("config"), Mapping)):
        raise InvalidArgumentError(
            f"The dictionary of {kind} has the keys 'class_name' and 'config', received {config!r}."
        )
    own, passed = (
        {name: cls for name, cls in classes.items() if isinstance(cls, type) and issubclass(cls, base)}
        for classes in (_registered, _passed.get({}))
    )
    ours, name = built_in(package, base), config["class_name"]
    known = {**ours, **own, **passed} if config.get("registered_name") else {**own, **ours, **passed}
    by_plain_name = {_plain(known_name): cls for known_name, cls in known.items()}
    if _plain(name) not in by_plain_name:
        nearest = get_close_matches(_plain(name), by_plain_name, n=1)
        hint = f" Did you mean {by_plain_name[nearest[0]].__name__!r}?" if nearest else ""
        raise InvalidArgumentError(
            f"Unknown {kind.split(' ', 1)[1]} {name!r}; known are {', '.join(sorted(known))}.{hint} Make a class of "
            f"your own known by @distopt.optimizers.register, or pass custom_objects={{{name!r}: YourClass}}."
        )
    return by_plain_name[_plain(name)]


def _plain(name: str) -> str:
    """Return a name without case and underscores, which do not count: ``rm_sprop`` is ``RMSprop``."""
    return name.lower().replace("_", "")
