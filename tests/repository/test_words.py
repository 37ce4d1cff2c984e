"""The words of the package: docstrings say what is done or what there is, and do not open with a question word."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import FILES, module_name

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
