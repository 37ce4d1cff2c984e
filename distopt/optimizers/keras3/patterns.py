"""Regular expressions that choose variables: each is compiled alone, and one that chooses nothing is a warning."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError


def compiled(where: str, patterns: Iterable[Any]) -> list[re.Pattern[str]]:
    """Compile regular expressions, each alone: so groups keep their numbers, and flags are at the start.

    Args:
        where: the call that received the patterns, for messages.
        patterns: the patterns.

    Raises:
        InvalidArgumentError: a pattern is no regular expression.
    """
    return [_compiled(where, pattern) for pattern in patterns]


def found(patterns: Iterable[re.Pattern[str]], name: str) -> bool:
    """Return whether one of the patterns is found in a name."""
    return any(pattern.search(name) for pattern in patterns)


def warn_of_idle(
    where: str, patterns: Iterable[str], names: Sequence[str], fits: Callable[[str, str], Any], advice: str
) -> None:
    """Warn once, on replica 0, of patterns that fit the name of no variable.

    Args:
        where: the argument that holds the patterns, with its optimizer's name.
        patterns: the patterns.
        names: the names of all variables.
        fits: function of a pattern and a name.
        advice: the end of the message: what follows, and how a pattern has to look.
    """
    idle = [pattern for pattern in patterns if not any(fits(pattern, name) for name in names)]
    if idle and names and get_strategy().replica_index == 0:
        warnings.warn(f"{where}: the patterns {idle} fit no variable, {advice}, such as {names[0]!r}", stacklevel=3)


def _compiled(where: str, pattern: Any) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise InvalidArgumentError(f"{where}: {pattern!r} is no regular expression: {error}") from error
