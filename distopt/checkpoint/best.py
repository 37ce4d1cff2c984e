"""Finds the best checkpoint of a directory, by a value of the user's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distopt.arguments import as_float
from distopt.checkpoint import directory as names
from distopt.checkpoint.extra import decode
from distopt.checkpoint.files import BadFileError
from distopt.checkpoint.manifest import read_manifest
from distopt.errors import CheckpointError, InvalidArgumentError


@dataclass(frozen=True)
class Best:
    """The measure by which a checkpoint is the best.

    Args:
        name: the name of a number in ``extra``; that of replica 0 counts.
        sign: 1 where low numbers are good, -1 where high ones are.
    """

    name: str
    sign: int

    def check(self, extra: dict[str, Any]) -> None:
        """Refuse to save without the number.

        Raises:
            InvalidArgumentError: there is none. NaN is one, and never the best.
        """
        value = extra.get(self.name)
        if math.isnan(as_float(value)) and np.all(value == value):  # NaN is a number here
            raise InvalidArgumentError(
                f"Checkpointer(keep_best=...): extra[{self.name!r}] is {value!r}: expected a number; set it before save"
            )

    def ranked(self, directory: Path, steps: Iterable[int]) -> list[int]:
        """Return those of the steps that have the number, the best one last; of equal ones the earliest is best."""
        scores = [
            (score, step) for step in steps if (score := self._score(names.complete(directory, step))) is not None
        ]
        return [step for _, step in sorted(scores, reverse=True)]

    def _score(self, checkpoint: Path) -> float | None:
        try:
            own = read_manifest(checkpoint, None).replicas[0]
            value = as_float(decode(own["extra"][self.name]))
        except (BadFileError, CheckpointError, OSError, KeyError, IndexError, TypeError, ValueError):
            return None
        return None if math.isnan(value) else self.sign * value


def checked_best(keep_best: Any) -> Best | None:
    """Return what ``keep_best=`` asks for.

    Raises:
        InvalidArgumentError: no pair of a name and "min" or "max".
    """
    if keep_best is None:
        return None
    match keep_best:
        case (str() as name, "min" | "max" as which):
            return Best(name, 1 if which == "min" else -1)
    raise InvalidArgumentError(
        f"Checkpointer(keep_best={keep_best!r}): expected the name of a number in extra and which is best, as in "
        '("loss", "min") or ("accuracy", "max")'
    )
