"""What type checkers see of the package in a program of a user's."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pages import ROOT, blocks
from support import run

SEEN = """
import distopt

reveal_type(distopt.Variable([1.0]))
reveal_type(distopt.optimizers.Adam(0.1))
reveal_type(distopt.get_strategy())
reveal_type(distopt.metrics.Mean().result())
"""


def checked(program: str, folder: Path) -> str:
    """What mypy says of a program; ``make types`` has checked the package with the same options."""
    path = folder / "program.py"
    path.write_text(program)
    result = run([sys.executable, "-m", "mypy", path], cwd=ROOT)
    return result.text


def test_the_names_of_a_bare_import_have_types(tmp_path: Path) -> None:
    types = re.findall('Revealed type is "(.*)"', checked(SEEN, tmp_path))
    assert [kind.rpartition(".")[2] for kind in types] == ["Variable", "Adam", "Strategy", "float"]


def test_an_environment_finds_the_package_along_its_path(tmp_path: Path) -> None:
    """Type checkers know no import hooks, by which an editable installation may find a package instead."""
    code = "from importlib.machinery import PathFinder; print(PathFinder.find_spec('distopt').origin)"
    result = run([sys.executable, "-P", "-c", code], cwd=tmp_path)
    assert result.output == f"{ROOT / 'distopt' / '__init__.py'}\n", result.text


def test_the_first_program_has_no_type_error(tmp_path: Path) -> None:
    program = next(block.text for block in blocks(ROOT / "README.md") if block.language == "python")
    assert "Success" in checked(program, tmp_path)
