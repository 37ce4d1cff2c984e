"""Modules at upstream's paths: each has upstream's names, and says what takes the place of those that it lacks."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from distopt.process.replica import current_replica
from distopt.variables.values import value_of

Paths = Mapping[str, Mapping[str, Any]]
"""Names by the path of their module below a root; the root's path is empty."""


class NamesModule(ModuleType):
    """A module made of names.

    Args:
        path: the dotted path that programs import.
        names: the names.
        lacks: returns what takes the place of a name that is not there.
    """

    def __init__(self, path: str, names: Mapping[str, Any], lacks: Callable[[str], AttributeError]) -> None:
        super().__init__(path, f"Names of upstream's module {path}.")
        self.__spec__, self.__path__ = ModuleSpec(path, None, is_package=True), []
        self.__dict__.update(names)
        self._lacks = lacks

    def __getattr__(self, name: str) -> Any:
        raise self._lacks(name)

    def __dir__(self) -> list[str]:
        return [name for name in self.__dict__ if not name.startswith("_")]


def lacking(root: str, path: str, counterparts: Mapping[str, str]) -> Callable[[str], AttributeError]:
    """Return a function that makes the error for a name that a module lacks.

    Args:
        root: the root module's path.
        path: the module's path below it.
        counterparts: sentences by dotted name below the root.
    """

    def lacks(name: str) -> AttributeError:
        dotted = f"{path}.{name}".lstrip(".")
        module = f"{root}.{path}".rstrip(".")
        sentence = counterparts.get(dotted) or counterparts.get(f"{path}.*".lstrip("."), "")
        return AttributeError(f"module {module!r} has no attribute {name!r}" + (f": {sentence}" if sentence else ""))

    return lacks


def install(root: str, paths: Paths, counterparts: Mapping[str, str]) -> None:
    """Make the modules of a root importable: ``import root.path`` and ``from root.path import name``.

    Args:
        root: the path of the root, which is a module already.
        paths: the names of each module below it.
        counterparts: sentences on names that are not there, by dotted name below the root.
    """
    modules: dict[str, ModuleType] = {"": sys.modules[root]}
    sys.modules[root].__dict__.update(paths.get("", {}))
    for path in sorted({parent for each in paths for parent in _parents(each)}):
        modules[path] = NamesModule(f"{root}.{path}", paths.get(path, {}), lacking(root, path, counterparts))
        sys.modules[f"{root}.{path}"] = modules[path]
    shown = {*paths.get("", {}), *(path.partition(".")[0] for path in modules if path)}
    modules[""].__dict__["__dir__"] = lambda: shown
    for path, module in modules.items():
        if path:
            parent, _, name = path.rpartition(".")
            modules[parent].__dict__[name] = module


def below(prefix: str, paths: Paths) -> dict[str, Mapping[str, Any]]:
    """Return the same modules below another path."""
    return {f"{prefix}.{path}".rstrip("."): names for path, names in paths.items()}


def public(*modules: ModuleType) -> dict[str, Any]:
    """Return the public functions and classes that modules define; functions take the argument ``name`` as well."""
    return {
        name: takes_name(value) if inspect.isfunction(value) else value
        for module in modules
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


def made(result: Any) -> Any:
    """Return what a function has made; in a method that an optimizer calls it is a value, as all else there."""
    return result if current_replica().of_thread.updating is None else value_of(result)


def takes_name(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that ignores ``name=``, which operations of TensorFlow have for their graphs."""
    takes_it = "name" in inspect.signature(function).parameters

    @functools.wraps(function)
    def operation(*args: Any, **kwargs: Any) -> Any:
        if not takes_it:
            kwargs.pop("name", None)
        return made(function(*args, **kwargs))

    return operation


def _parents(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:k]) for k in range(1, len(parts) + 1)] if path else []
