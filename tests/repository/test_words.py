"""The words of the package: docstrings say what is done or what there is, and do not open with a question word."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import FILES, module_name

from distopt.data import Batch
from distopt.telemetry import Lateness

QUESTION = re.compile(r"\s*(What|Whether|How|Who|Which|Where|When|Why)\b")


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of a file, and the strings under assignments, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_no_docstring_opens_with_a_question_word(path: Path) -> None:
    assert not [(line, text) for line, text in docstrings(path) if QUESTION.match(text)]


@pytest.mark.parametrize("cls", [Batch, Lateness])
def test_every_field_says_its_unit(cls: type) -> None:
    body = ast.parse(inspect.getsource(cls)).body[0].body
    fields = [k for k, node in enumerate(body) if isinstance(node, ast.AnnAssign)]
    assert len(fields) >= 3
    for k in fields:
        match body[k + 1]:
            case ast.Expr(value=ast.Constant(value=str(text))):
                assert re.search(r"number|index|Seconds|examples|True", text), ast.unparse(body[k])
            case _:
                pytest.fail(f"{ast.unparse(body[k])} has no docstring")
