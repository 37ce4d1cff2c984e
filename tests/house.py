"""The floors of the house and the imports in it: what ``test_house.py`` holds and ``docs/design.md`` draws."""

from __future__ import annotations

import ast
from pathlib import Path

import distopt

ROOT = Path(distopt.__file__).parent

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "former_names"),
    ("lazy", "settings", "speaking", "arrays", "arguments", "registry"),
    ("process", "program", "kernels", "memory"),
    ("initializers",),
    ("variables",),
    ("ops", "constraints", "gradients"),
    ("distribute.agreement",),
    ("distribute.node",),
    ("distribute.transports",),
    ("distribute",),
    ("slabs", "data"),
    ("norms",),
    ("aggregators", "transformers", "losses", "metrics", "telemetry"),
    ("engine.state",),
    ("engine.sweep",),
    ("engine.streaming",),
    ("engine",),
    ("optimizers.common",),
    ("optimizers.schedules",),
    ("optimizers.keras3", "optimizers.legacy.base"),
    ("optimizers.by_name",),
    ("optimizers",),
    ("optimizers.legacy",),
    ("compat.functions",),
    ("compat",),
    ("verify", "adapters", "checkpoint", "testing", "elastic"),
    ("ray",),
    ("cli",),
    ("__main__",),
)
"""Lowest first. A file imports from floors below its own, or from its own room."""


def module_name(path: Path) -> str:
    """Return the dotted name of a file under ``distopt``, without ``distopt``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(ROOT.rglob("*.py"))
MODULES = {module_name(path): path for path in FILES}
TESTS = Path(__file__).parent
FILES_OF_TESTS = sorted(TESTS.rglob("*.py"))


def room(module: str) -> str | None:
    """Return the room that a module stands in: the longest prefix that has a floor."""
    parts = module.split(".")
    known = {name for names in FLOORS for name in names}
    prefixes = (".".join(parts[:k]) for k in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in known), None)


def floor(module: str) -> int:
    """Return the number of a module's floor, from 0."""
    name = room(module)
    return next((k for k, names in enumerate(FLOORS) if name in names), -1)


def imports(path: Path) -> dict[str, int]:
    """Return the modules that a file imports, anywhere in it, with the line of the first import."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "distopt":
            package = node.module.removeprefix("distopt").removeprefix(".")
            for alias in node.names:
                name = f"{package}.{alias.name}".lstrip(".")
                found.setdefault(name if name in MODULES else package, node.lineno)
    return found
