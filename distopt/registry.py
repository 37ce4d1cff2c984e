"""Finds classes by name: those of distopt, those that were registered, and those passed to a call."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Any, TypeVar, overload
from weakref import WeakKeyDictionary

from distopt.errors import InvalidArgumentError

T = TypeVar("T")

_registered: dict[str, Any] = {}
_names: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_passed: ContextVar[Mapping[str, type]] = ContextVar("custom_objects")


@overload
def register(cls: type[T]) -> type[T]: ...


@overload
def register(
    cls: None = None, *, package: str | None = None, name: str | None = None
) -> Callable[[type[T]], type[T]]: ...


def register(cls: Any = None, *, package: str | None = None, name: str | None = None) -> Any:
    """Make a class of your own known by its name: a decorator for optimizers, schedules, losses and constraints.

    ``get`` and ``deserialize`` then find it without ``custom_objects``. It is written ``@register``, or
    ``@register(package="mine")`` where classes of other packages have the same name.

    Args:
        cls: the class, or a loss or constraint that is a function; it is returned as it is.
        package: where the class comes from: dictionaries then say ``"registered_name": "package>name"``.
        name: the name; that of the class by default.

    Raises:
        InvalidArgumentError: ``cls`` is no class, or another class has been registered under this name.

    Example:
        >>> import distopt
        >>> @register
        ... class Plain(distopt.optimizers.SGD):
        ...     pass
        >>> distopt.optimizers.get("plain").name
        'plain'

    Source: Keras 3, ``keras.saving.register_keras_serializable``, which puts a package in front of every name.
    """
    if cls is None:
        return functools.partial(_register, package=package, name=name)
    return _register(cls, package, name)


def _register(cls: Any, package: str | None, name: str | None) -> Any:
    if not callable(cls) or not hasattr(cls, "__qualname__"):
        raise InvalidArgumentError(f"register received {cls!r}: expected a class, above which it stands as @register")
    key = f"{package}>{name or cls.__name__}" if package else name or cls.__name__
    known = _registered.get(key, cls)
    # The same lines run again, as notebooks do, replace the class.
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise InvalidArgumentError(
            f"register received {cls!r}, and {known!r} is registered under this name: rename one of them, give them "
            f"packages (register(package=...)), or pass custom_objects={{{cls.__name__!r}: ...}} where it is needed"
        )
    _registered[key], _names[cls] = cls, key
    return cls


def registered_name_of(thing: Any) -> str:
    """Return the name under which a class or a function is registered; its own if it is not."""
    name: str = _names.get(thing, thing.__name__)
    return name


def custom_objects() -> dict[str, Any]:
    """Return the registered classes and functions by name; what is put in is registered."""
    return _registered


def registered(name: str) -> Any:
    """Return the class or function that is registered under exactly this name, or None."""
    return _registered.get(name)


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
        "registered_name": None if ours else registered_name_of(cls),
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
    ours, name, asked = built_in(package, base), config["class_name"], config.get("registered_name")
    if ">" in name and not asked:
        asked = name  # as tf_keras writes it
    order = (passed, own, ours) if asked else (passed, ours, own)
    for form in (_unpackaged, _plain):  # LAMB is another name than Lamb, where both are known
        for classes in order:
            found = _matching(classes, asked or name, name, form)
            if found is not None:
                return found
    known = {**own, **ours, **passed}
    by_plain_name = {_plain(known_name): cls for known_name, cls in known.items()}
    nearest = get_close_matches(_plain(name), by_plain_name, n=1)
    hint = f" Did you mean {by_plain_name[nearest[0]].__name__!r}?" if nearest else ""
    raise InvalidArgumentError(
        f"Unknown {kind.split(' ', 1)[1]} {name!r}; known are {', '.join(sorted(known))}.{hint} Make a class of "
        f"your own known by @distopt.optimizers.register, or pass custom_objects={{{name!r}: YourClass}}."
    )


def _matching(classes: Mapping[str, type], asked: str, name: str, form: Callable[[str], str]) -> type | None:
    """Return the class of a name; of those in packages only the one that is asked for, if a package is asked for."""
    if asked in classes:
        return classes[asked]
    package = asked.rpartition(">")[0]
    found = {
        cls
        for key, cls in classes.items()
        if form(key) == form(name) and (not package or key.rpartition(">")[0] in ("", package))
    }
    if len(found) > 1:
        keys = ", ".join(repr(key) for key, cls in classes.items() if cls in found)
        raise InvalidArgumentError(
            f"{name!r} is the name of several registered classes: say which in 'registered_name', one of {keys}"
        )
    return found.pop() if found else None


def make(kind: str, config: Any, package: str, base: type, custom_objects: Mapping[str, type] | None) -> Any:
    """Make the object that a dictionary describes."""
    with passing(custom_objects):
        return find(kind, config, package, base).from_config(dict(config["config"]))


def get_object(kind: str, identifier: Any, package: str, base: type) -> Any:
    """Return an object: by its name, by its dictionary, of its class, or the function given; None for None.

    Raises:
        InvalidArgumentError: an unknown name, with the nearest match; something else.
    """
    if isinstance(identifier, str):
        function = registered(identifier)
        if function is not None and not isinstance(function, type):
            return function
        identifier = {"class_name": identifier, "config": {}}
    if isinstance(identifier, Mapping):
        return make(kind, identifier, package, base, None)
    if isinstance(identifier, type):
        return identifier()
    if identifier is None or callable(identifier):
        return identifier
    raise InvalidArgumentError(
        f"get received {identifier!r}: expected {kind} of {package}, its name, its dictionary or a function"
    )


def _plain(name: str) -> str:
    """Return a name without its package, case and underscores, which do not count: ``rm_sprop`` is ``RMSprop``."""
    return _unpackaged(name).lower().replace("_", "")


def _unpackaged(name: str) -> str:
    return name.rpartition(">")[2]
