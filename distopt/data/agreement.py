"""Raises one error on all replicas when they have different data."""

from __future__ import annotations

from collections.abc import Mapping

from distopt.errors import InvalidArgumentError


def same_everywhere(caller: str, descriptions: Mapping[int, str]) -> None:
    """Raise the same error on every replica unless all replicas describe their data in the same way.

    Raises:
        InvalidArgumentError: the descriptions differ; the message has a table of which replicas have which.
    """
    replicas_by_text: dict[str, list[str]] = {}
    for index, text in descriptions.items():
        replicas_by_text.setdefault(text, []).append(str(index))
    if len(replicas_by_text) > 1:
        table = "".join(f"\n  replica {', '.join(indices)}: {text}" for text, indices in replicas_by_text.items())
        raise InvalidArgumentError(
            f"{caller} must get the same arguments and kinds of arrays on every replica, received:{table}"
        )
