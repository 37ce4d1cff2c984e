"""Which cases of a slow test are quick: each value of each parameter once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def cases(every: Iterable[tuple[Any, ...]], *, quick: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return cases for ``pytest.mark.parametrize``; all but the quick ones are marked as slow.

    Args:
        every: the values of each case.
        quick: the cases that ``make test`` runs; the others are left to ``make test-slow``.
    """
    every = list(every)
    strangers = [case for case in quick if case not in every]
    assert not strangers, f"quick cases that are no cases: {strangers}"
    return [pytest.param(*case, marks=[] if case in quick else pytest.mark.slow) for case in every]
