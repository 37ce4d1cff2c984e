"""The page of environment variables, from ``distopt.settings``: ``python tests/settings_in_docs.py`` writes it."""

from pathlib import Path

from distopt import settings

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
SETTINGS = [value for value in vars(settings).values() if isinstance(value, settings.Setting)]
MORE = {
    settings.UPDATE: "[shared mode](shared-mode.md)",
    settings.BUCKET_BYTES: "[gradients one by one](shared-mode.md#gradients-one-by-one)",
    settings.CHECKS: "[how often to look](checkpoints-and-failures.md#how-often-to-look-how-long-to-wait)",
    settings.DEADLINES: "[how long to wait](checkpoints-and-failures.md#how-often-to-look-how-long-to-wait)",
    settings.RECEIPT: "[where do two runs part?](checkpoints-and-failures.md#where-do-two-runs-part)",
}
"""Pages that say more."""

TEXT = """\
# Environment variables

A variable is read when it is needed, not when distopt is imported. An empty one is as if it were not set. A value
that can't be right is an error, which names the variable, what was received and what is expected. An argument of
`distopt.Strategy` comes before the variable.

{users}
distopt sets these itself:

{internal}
Tests of this repository have some of their own, such as `DISTOPT_BENCH`: [Contributing](../CONTRIBUTING.md).

This page is made from `distopt/settings.py` by `python tests/settings_in_docs.py`.
"""


def table(is_internal):
    """Some of the settings as Markdown."""
    rows = ["| variable | what it sets | values | default |", "| --- | --- | --- | --- |"]
    for each in SETTINGS:
        if each.is_internal == is_internal:
            more = f" See {MORE[each]}." if each in MORE else ""
            default = f"`{each.default}`" if each.default else "none"
            rows.append(f"| `{each.name}` | {each.meaning}{more} | {each.expected} | {default} |")
    return "\n".join(rows) + "\n"


def page():
    """The whole page."""
    return TEXT.format(users=table(False), internal=table(True))


if __name__ == "__main__":
    PAGE.write_text(page())
