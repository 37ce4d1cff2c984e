"""The pages that people read say what is: their code runs, their links lead somewhere, their names exist."""

import importlib
import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from pages import DOCS, LINK, PAGES, ROOT, SPAN, anchors, blocks, prose, run

import distopt
from distopt.cli.main import main

README = ROOT / "README.md"
ELSEWHERE = {"pytorch.md", "keras.md", "jax.md", "ray.md"}
"""Their blocks need packages that a plain environment lacks: tests/frameworks and tests/on_ray run them."""
MAKEFILE = (ROOT / "Makefile").read_text()


def name_of(page):
    return str(page.relative_to(ROOT))


ALL_PAGES = pytest.mark.parametrize("page", PAGES, ids=name_of)
TARGETS = set(re.findall(r"^([\w-]+):(?!=)", MAKEFILE, re.M))


def with_python(pages):
    return [page for page in pages if any(block.language == "python" for block in blocks(page))]


@pytest.mark.parametrize("page", [p for p in with_python(PAGES) if p.name not in ELSEWHERE], ids=name_of)
@pytest.mark.parametrize("count", [1, 2])
def test_the_python_of_a_page_runs(page, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    distopt.simulate(count, run, page)


def test_the_first_program_learns_what_it_should():
    with redirect_stdout(io.StringIO()) as printed:
        names = run(README)
    np.testing.assert_allclose(names["w"].numpy(), [1, -2, 3], atol=0.01)
    assert printed.getvalue().strip() in README.read_text()


@ALL_PAGES
def test_a_block_runs_or_says_why_not(page):
    for block in blocks(page):
        where = f"{name_of(page)}:{block.line}"
        assert block.language in ("python", "sh"), where
        assert block.language == "python" or block.why, f"{where}: <!-- not run: REASON --> is missing"
        for path in re.findall(r"tests/[\w/]+\.py", block.why or ""):
            assert (ROOT / path).exists(), f"{where}: {path}"
    assert page.read_text().count("\n```") == 2 * len(blocks(page))


@ALL_PAGES
def test_the_commands_of_a_page_exist(page):
    for block in blocks(page):
        if block.language == "sh":
            for line in block.text.splitlines():
                check_command(shlex.split(line, comments=True))


def check_command(words):
    """What a command names is there: a target of make, a subcommand with its options, a file."""
    words = [word.rstrip(";") for word in words if not re.match(r"[A-Z_]+=", word)]
    if words[:1] == ["make"]:
        assert set(words[1:]) <= TARGETS, words
    if words[:1] == ["distopt"]:
        command = main.get_command(None, words[1])
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words[2:] if word.startswith("-")} - {"--config"} <= known, words
    for word in words:
        if re.match(r"(examples|configs|launch|tests|docs)/", word):
            assert (ROOT / word.split("::")[0]).exists(), words


@ALL_PAGES
def test_links_lead_somewhere(page):
    for target in LINK.findall(prose(page)):
        if not target.startswith("https://"):
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            assert path.exists(), f"{name_of(page)}: {target}"
            assert not anchor or anchor in anchors(path), f"{name_of(page)}: {target}"


@ALL_PAGES
def test_the_names_in_its_sentences_exist(page):
    for span in SPAN.findall(prose(page)):
        for name in re.findall(r"^distopt\.[\w.]+", span):
            assert exists(name), f"{name_of(page)}: {name}"
        for variable in re.findall(r"DISTOPT_\w+", span):
            assert variable in PACKAGE or variable == "DISTOPT_BENCH", f"{name_of(page)}: {variable}"
        if target := re.fullmatch(r"make ([\w-]+)", span):
            assert target[1] in TARGETS, f"{name_of(page)}: {span}"
        if re.fullmatch(r"(examples|configs|launch|tests)/[\w./-]*", span):
            assert (ROOT / span).exists(), f"{name_of(page)}: {span}"


PACKAGE = "".join(path.read_text() for path in Path(distopt.__file__).parent.rglob("*.py"))


def exists(name):
    """Whether a dotted name leads to something; where a framework is missing, its adapter may define it."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:k]))
        except distopt.errors.MissingExtraError:
            return True
        except ModuleNotFoundError:
            continue
        for part in parts[k:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_every_page_is_in_the_index():
    listed = set(LINK.findall(prose(DOCS / "README.md")))
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= listed


def test_the_first_page_is_short():
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1000
