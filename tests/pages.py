"""The pages that people read: their blocks of code, their headings, their links, the names in their sentences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")])

BLOCK = re.compile(r"(?:^<!-- not run: (?P<why>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
COMMENT = re.compile(r"<!--.*?-->", re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")
HEADING = re.compile(r"^#+ (.*)$", re.M)


@dataclass(frozen=True)
class Block:
    """Code between two fences.

    Args:
        language: what stands behind the opening fence: "python" or "sh".
        text: the code.
        line: the number of its first line on the page.
        why: the reason why no test runs it, from a comment right above: ``<!-- not run: REASON -->``.
    """

    language: str
    text: str
    line: int
    why: str | None


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(found["language"], found["text"], text.count("\n", 0, found.start("text")) + 1, found["why"])
        for found in BLOCK.finditer(text)
    ]


def run(page: Path) -> dict[str, Any]:
    """Run the Python of a page from top to bottom, as a notebook would; return the names that it has made."""
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "python" and block.why is None:
            code = "\n" * (block.line - 1) + block.text  # a traceback has the line of the page
            exec(compile(code, str(page), "exec"), names)
    return names


def prose(page: Path) -> str:
    """Return a page without blocks and comments."""
    return COMMENT.sub("", BLOCK.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """Return what a link to a heading of the page may end in, as GitHub makes it."""
    plain = (re.sub(r"[^\w -]", "", heading) for heading in HEADING.findall(prose(page)))
    return {heading.strip().lower().replace(" ", "-") for heading in plain}
