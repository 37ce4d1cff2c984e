"""Environment variables: one file reads them, its page is up to date, and a value that can't be right is said so."""

import ast
import re

import pytest
from house import FILES, ROOT
from settings_in_docs import PAGE, SETTINGS, page

from distopt import settings
from distopt.errors import InvalidArgumentError

NAME = re.compile(r"\bDISTOPT_[A-Z_]*[A-Z]")
OF_TESTS = {"DISTOPT_BENCH"}
BY_NAME = {each.name: each for each in SETTINGS}


def test_the_page_is_that_of_the_code():
    assert PAGE.read_text() == page(), "run: python tests/settings_in_docs.py"


def test_nothing_else_holds_the_name_of_a_variable():
    def names(path):
        constants = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
        return [value for value in constants if isinstance(value, str) and re.fullmatch(r"DISTOPT_\w*", value)]

    holding = {path.name: found for path in FILES if (found := names(path))}
    assert holding.pop("bootstrap.py") == [settings.RUN_DIR.name]  # which runs where distopt may be missing
    assert holding.keys() == {"settings.py"}


def test_every_name_that_is_mentioned_is_a_setting():
    repository = ROOT.parent
    pages = [repository / "README.md", *(repository / "docs").glob("*.md"), *(repository / "launch").iterdir()]
    mentioned = {name: path for path in [*FILES, *pages] for name in NAME.findall(path.read_text())}
    mentioned.pop("DISTOPT_EXAMPLE")  # of the docstring
    assert not [f"{path}: {name}" for name, path in mentioned.items() if name not in BY_NAME.keys() | OF_TESTS]


@pytest.mark.parametrize("name", BY_NAME)
def test_an_empty_variable_is_as_one_that_is_not_set(monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    assert BY_NAME[name].read() == BY_NAME[name].default
    monkeypatch.setenv(name, "")
    assert BY_NAME[name].read() == BY_NAME[name].default
    assert BY_NAME[name].text() == ""


@pytest.mark.parametrize(
    ("setting", "text", "expected"),
    [
        *((settings.THREADS, text, "a number of threads") for text in ("²", "1" * 20, "0", "-1", "1.5", " ", "many")),
        *((settings.BUCKET_BYTES, text, "a number of bytes") for text in ("abc", "0", "-1", "1" * 5000)),
        (settings.UPDATE, "Shared", "'replicated' or 'shared'"),
        (settings.KERNELS, "fast", "'fused'"),
        (settings.REPLICA_PID, "me", "a process id"),
    ],
)
def test_a_value_that_can_not_be_right_is_an_error(monkeypatch, setting, text, expected):
    monkeypatch.setenv(setting.name, text)
    with pytest.raises(InvalidArgumentError, match=f"^{setting.name}={re.escape(repr(text))}: expected {expected}"):
        setting.read()


@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [
        (settings.THREADS, "4", 4),
        (settings.BUCKET_BYTES, "1000", 1000),
        (settings.UPDATE, "shared", "shared"),
        (settings.KERNELS, "reference", "reference"),
        (settings.RECEIPT, "a", "a"),
    ],
)
def test_a_variable_is_read_each_time(monkeypatch, setting, text, value):
    monkeypatch.setenv(setting.name, text)
    assert setting.read() == value
    assert settings.given()[setting.name] == text
    monkeypatch.delenv(setting.name)
    assert setting.read() == setting.default
    assert setting.name not in settings.given()
