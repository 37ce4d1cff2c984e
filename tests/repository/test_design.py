"""The page on the design says what is: its names exist, its example works, its picture is up to date."""

import ast
import builtins
import importlib
import keyword
import re
from functools import cache
from pathlib import Path

import draw_floors
import numpy as np
import pytest
from house import FILES, FLOORS, ROOT

import distopt

REPOSITORY = Path(draw_floors.__file__).parent.parent
PAGE = (REPOSITORY / "docs" / "design.md").read_text()
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
LINES = re.compile(r"([\d,]+) lines")

PROSE = EXAMPLE.sub("", PAGE)
SPANS = sorted(set(SPAN.findall(PROSE)))
ROWS = [line.split("|")[1:-1] for line in PROSE.splitlines() if line.startswith("|")]


@cache
def defines(path: Path) -> set[str]:
    """Return what a file defines: ``name``, ``Class``, ``Class.member``, and the names of arguments."""
    tree = ast.parse(path.read_text())
    found = _names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{member}" for member in _names(node)}
    return found


def _names(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef():
                found.add(node.name)
            case ast.Name(ctx=ast.Store()):
                found.add(node.id)
            case ast.Attribute(ctx=ast.Store()):
                found.add(node.attr)
            case ast.arg():
                found.add(node.arg)
    return found


@cache
def all_names() -> set[str]:
    """Return what the package defines."""
    return set[str]().union(*map(defines, FILES), dir(builtins), keyword.kwlist)


def file_named(text: str) -> Path | None:
    """Return the file or folder that a span names, where it names one."""
    if not re.fullmatch(r"[\w./-]+(/[\w-]+|\.(py|md|svg))", text) or text.startswith("/"):
        return None
    return next((path for path in (ROOT / text, REPOSITORY / text) if path.exists()), Path(text))


def exists(name: str) -> bool:
    if not name.startswith("distopt."):
        return name in all_names() or name in {room for rooms in FLOORS for room in rooms}
    package, _, last = name.rpartition(".")
    return hasattr(importlib.import_module(package), last)


def test_every_name_on_the_page_exists() -> None:
    missing = set()
    for span in SPANS:
        path = file_named(span)
        names = NAME.findall(re.sub(r'"[^"]*"', "", span)) if path is None else []
        missing |= {name for name in names if not exists(name)} | ({span} if path and not path.exists() else set())
    assert not missing


def test_what_stands_before_a_file_in_a_row_is_defined_there() -> None:
    checked = 0
    for cells in ROWS:
        cell = next((k for k, text in enumerate(cells) if re.search(r"\.py`", text)), 0)
        paths = [path for span in SPAN.findall(cells[cell]) if (path := file_named(span)) is not None]
        if cell == 0 or not all(path.is_file() for path in paths):
            continue
        names = {name for text in cells[:cell] for span in SPAN.findall(text) for name in NAME.findall(span)}
        assert names <= set(keyword.kwlist).union(*map(defines, paths)), cells
        checked += 1
    assert checked > 40


def test_the_page_has_one_line_for_every_room() -> None:
    begin, end = PROSE.index("| room |"), PROSE.index("## One step")
    listed = re.findall(r"^\| `([\w.]+)` \|", PROSE[begin:end], re.MULTILINE)
    assert listed == [room for rooms in FLOORS for room in rooms]


def test_the_example_is_an_optimizer() -> None:
    names: dict[str, object] = {}
    (example,) = EXAMPLE.findall(PAGE)
    exec(example, names)
    w = distopt.Variable([1.0, 1.0, 1.0])
    names["SignDescent"](0.25).apply_gradients([([3.0, -0.5, 0.0], w)])  # type: ignore[operator]
    np.testing.assert_array_equal(w.numpy(), np.float32([0.75, 1.25, 1.0]))


def test_the_picture_is_up_to_date() -> None:
    """Rooms, files and imports exactly; lines of code may have become a tenth more or fewer."""
    committed, fresh = draw_floors.PICTURE.read_text(), draw_floors.draw()
    say = "python tests/draw_floors.py draws it anew"
    assert LINES.sub("lines", committed) == LINES.sub("lines", fresh), say
    for then, now in zip(LINES.findall(committed), LINES.findall(fresh), strict=True):
        assert float(then.replace(",", "")) == pytest.approx(float(now.replace(",", "")), rel=0.1, abs=30), say
