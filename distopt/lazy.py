"""Imports names at their first use, so that importing a package stays quick."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distopt.errors import DistoptError
from distopt.former_names import warn_of_former_name


def attach(
    package: str,
    file: str,
    former_names: Mapping[str, str] | None = None,
    counterparts: Mapping[str, str] | None = None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return a package's ``__getattr__``, ``__dir__`` and ``__all__``, made from the stub beside it.

    The stub, ``__init__.pyi``, is the one list of the package's names: type checkers read it as well. Each is a line
    ``from <module> import <name> as <name>``. A name from the package itself is one of its modules, and is not in
    ``__all__``. A module that can't be used here, for want of an optional package, is an attribute that is not there.

    Args:
        package: the package's ``__name__``.
        file: its ``__file__``.
        former_names: former public name -> the present one; warns.
        counterparts: name that other libraries have here -> a sentence on what takes its place.
    """
    former_names, counterparts = former_names or {}, counterparts or {}
    modules = _sources(Path(file).with_suffix(".pyi"))

    def lacking(text: str, name: str) -> AttributeError:
        return AttributeError(text, name=name, obj=sys.modules[package])

    def load(name: str) -> Any:
        if name in former_names:
            warn_of_former_name(f"{package}.{name}", former_names[name])
            return load(former_names[name])
        home = modules.get(name)
        if home is None:
            hint = f": {counterparts[name]}" if name in counterparts else ""
            raise lacking(f"module {package!r} has no attribute {name!r}{hint}", name)
        try:
            value = importlib.import_module(f"{package}.{name}" if home == package else home)
        except DistoptError as error:  # such as a missing extra: whoever looks through all names must go on
            raise lacking(str(error), name) from error
        if home != package:
            value = getattr(value, name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*modules, *filter(lambda name: name.startswith("__"), vars(sys.modules[package]))})

    return load, names, [name for name, home in modules.items() if home != package]


def _sources(stub: Path) -> dict[str, str]:
    """Return the module that each name comes from."""
    return {
        alias.name: node.module
        for node in ast.parse(stub.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
