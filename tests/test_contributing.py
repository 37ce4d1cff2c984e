"""What contributors rely on: make says what it can do."""

import re
import subprocess

from support import ROOT


def test_make_help_has_a_sentence_for_every_target():
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sentences = dict(line.split(maxsplit=1) for line in printed.splitlines())
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    assert sentences.keys() == {*phony.replace("\\\n", " ").split(), "test-N"}
    assert all(re.fullmatch(r"[A-Z].+\.", sentence) for sentence in sentences.values())
