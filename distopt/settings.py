"""The environment variables that distopt reads: this file alone reads them, each at the moment of its use.

``docs/settings.md`` is made from these records by ``tests/settings_in_docs.py``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from distopt.errors import InvalidArgumentError

T = TypeVar("T")

UPDATES = ("replicated", "shared")
"""The modes of a strategy."""

_PREFIX = "DISTOPT_"


@dataclass(frozen=True)
class Setting(Generic[T]):
    """One environment variable.

    Args:
        name: the variable.
        default: what an unset or empty variable stands for.
        parse: makes a value of its text; raises ValueError for one that can't be right.
        expected: which values can be right.
        meaning: what it sets, in one sentence.
        is_internal: whether distopt sets it, for the processes that it starts.

    Example:
        >>> Setting("DISTOPT_EXAMPLE", 3, int, "a number", "Nothing.").read()
        3
    """

    name: str
    default: T
    parse: Callable[[str], T]
    expected: str
    meaning: str
    is_internal: bool = False

    def text(self) -> str:
        """Return the text of the variable, which nobody has checked; empty if it is not set."""
        return os.environ.get(self.name, "")

    def read(self) -> T:
        """Return the value of the variable.

        Raises:
            InvalidArgumentError: the text can't be right.
        """
        text = self.text()
        try:
            return self.parse(text) if text else self.default
        except ValueError:
            raise InvalidArgumentError(f"{self.name}={text!r}: expected {self.expected}") from None


def given() -> dict[str, str]:
    """Return the variables that are set, with their texts: what a process on another machine has to be given."""
    return {name: text for name, text in os.environ.items() if name.startswith(_PREFIX)}


def _count(least: int, most: int = sys.maxsize) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ValueError
        return int(text)

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError
        return text

    return parse


UPDATE = Setting(
    "DISTOPT_UPDATE",
    "replicated",
    _one_of(*UPDATES),
    "'replicated' or 'shared'",
    "Whether every replica keeps parameters and slots of its own, or the replicas of a node share them.",
)
THREADS = Setting(
    "DISTOPT_THREADS",
    1,
    _count(1, 999_999),
    "a number of threads, 1 or more",
    "How many threads each of several replicas may use: results of BLAS depend on it.",
)
BUCKET_BYTES = Setting[int | None](
    "DISTOPT_BUCKET_BYTES",
    None,
    _count(1),
    "a number of bytes, 1 or more",
    "The size of a bucket in streamed steps; it is measured if it is not given, and no result depends on it.",
)
CHECKS = Setting(
    "DISTOPT_CHECKS",
    "",
    str,
    "options of `Checks`, as in 'state_every=10,on_nonfinite=skip'",
    "What is checked in a step, and how often.",
)
DEADLINES = Setting(
    "DISTOPT_DEADLINES",
    "",
    str,
    "options of `Deadlines` in seconds, as in 'warn=2,silent=5,end=5'",
    "How long a replica waits for the others.",
)
RECEIPT = Setting[str | None](
    "DISTOPT_RECEIPT",
    None,
    str,
    "a directory",
    "Where every step leaves a line for `distopt diff`; without it there is no receipt.",
)
KERNELS = Setting(
    "DISTOPT_KERNELS",
    "fused",
    _one_of("fused", "reference"),
    "'fused' (compiled, the default) or 'reference' (NumPy)",
    "Which kernels update parameters.",
)
CACHE_DIR = Setting[str | None](
    "DISTOPT_CACHE_DIR",
    None,
    str,
    "a directory, as an absolute path",
    "Where compiled kernels are kept; else in `distopt` under `$XDG_CACHE_HOME` or `~/.cache`.",
)
REPLICA_PID = Setting(
    "DISTOPT_REPLICA_PID",
    0,
    _count(0),
    "a process id",
    "Every replica sets it to its own process id, so that the processes it starts can tell that they are none.",
    is_internal=True,
)
RUN_DIR = Setting[str | None](
    "DISTOPT_RUN_DIR",
    None,
    str,
    "a directory",
    "`distopt run` sets it to where replicas leave what its last report needs.",
    is_internal=True,
)
