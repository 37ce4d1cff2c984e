"""What contributors rely on: make says what it can do, fragments have names that are read."""

import re
import subprocess
import tomllib

from support import ROOT


def test_make_help_has_a_sentence_for_every_target():
    command = ["make", "--no-print-directory", "help"]  # the test may run under make itself
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sentences = dict(line.split(maxsplit=1) for line in printed.splitlines())
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    assert sentences.keys() == {*phony.replace("\\\n", " ").split(), "test-N"}
    assert all(re.fullmatch(r"[A-Z].+\.", sentence) for sentence in sentences.values())


def test_fragments_are_of_a_kind_that_the_changelog_has():
    types = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]
    kinds = {kind["directory"] for kind in types}
    assert {path.name.split(".")[-2] for path in (ROOT / "changelog.d").glob("*.md")} <= kinds
