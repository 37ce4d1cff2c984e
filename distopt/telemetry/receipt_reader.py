"""Reads the receipts that ``receipt`` has written: the steps of a run, on every replica."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from distopt.errors import InvalidArgumentError

Variables: TypeAlias = "tuple[tuple[str, str, tuple[int, ...]], ...]"
"""Name, dtype and shape of each variable."""

Key: TypeAlias = "tuple[int, Variables, int]"
"""A step's number and variables, and how many such steps came before: two optimizers each count their own steps."""


@dataclass(frozen=True)
class Step:
    """One line of one replica's receipt; its numbers in the form in which the line has them."""

    number: int
    replicas: int
    variables: Variables
    items: str | None
    gradients: Sequence[str | None]
    total_items: str | None
    gradient_norm: str
    parameters: Sequence[str]
    digest: str


@dataclass(frozen=True)
class Run:
    """The receipt of one run, without the steps that were done again after it was resumed."""

    name: str
    replicas: Sequence[dict[Key, Step]]

    def steps(self) -> Iterator[list[Step]]:
        """Yield the steps that all replicas have finished: for each step the lines of all replicas."""
        for key, first in self.replicas[0].items():
            mine = self.replicas[: first.replicas]
            if any(key not in steps for steps in mine):  # the run was killed while they wrote
                return
            yield [steps[key] for steps in mine]


def read_run(directory: Path) -> Run:
    """Read the receipt that a run has left; skip a last line that was cut off.

    Args:
        directory: the directory of the receipt.

    Raises:
        InvalidArgumentError: the directory holds no receipt, or an incomplete or damaged one.
    """
    if not (directory / "replica-0.jsonl").is_file():
        raise InvalidArgumentError(
            f"{str(directory)!r} holds no receipt (there is no replica-0.jsonl): give the directory that a run with "
            "DISTOPT_RECEIPT=directory has written"
        )
    replicas = [_read_replica(directory / "replica-0.jsonl")]
    count = max((step.replicas for step in replicas[0].values()), default=1)
    for path in (directory / f"replica-{replica}.jsonl" for replica in range(1, count)):
        if not path.is_file():
            raise InvalidArgumentError(
                f"the receipt in {str(directory)!r} is one of {count} replicas and lacks {path.name}: copy the files "
                "of all nodes into one directory"
            )
        replicas.append(_read_replica(path))
    return Run(str(directory), replicas)


def _read_replica(path: Path) -> dict[Key, Step]:
    """Read one file; where a resumed run has done steps again, only the new ones count."""
    steps: dict[Key, Step] = {}
    count: Counter[tuple[int, Variables]] = Counter()
    replicas, resumes = 0, False
    variables: Variables = ()
    for line in _lines(path):
        try:
            if "variables" in line:
                replicas, resumes = line.get("replicas", replicas), resumes or "replicas" in line
                variables = tuple((str(name), str(dtype), tuple(shape)) for name, dtype, shape in line["variables"])
                continue
            step = _step(line, replicas, variables)
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable(path, error) from error
        if resumes:
            steps, resumes = _before(steps, step), False
            count = Counter((number, of) for number, of, _ in steps)
        key = step.number, step.variables
        steps[*key, count[key]] = step
        count[key] += 1
    return steps


def _before(steps: dict[Key, Step], step: Step) -> dict[Key, Step]:
    """Return the steps that come before this step, which a resumed run has done again."""
    kept: dict[Key, Step] = {}
    for key, done in steps.items():
        if done.variables == step.variables and done.number >= step.number:
            break
        kept[key] = done
    return kept


def _step(line: dict[str, Any], replicas: int, variables: Variables) -> Step:
    gradients, parameters, norm = line["gradients"], line["parameters"], str(line["gradient_norm"])
    float(norm)  # it must be one
    if not len(gradients) == len(parameters) == len(variables) or replicas < 1:
        raise ValueError(f"step {line['step']} does not fit the variables named before it")
    items, total, number = line["items"], line["total_items"], int(line["step"])
    return Step(number, replicas, variables, items, gradients, total, norm, parameters, line["digest"])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file, without lines that were cut off: the last one, and the last before a resumed run."""
    cut: Exception | None = None
    for text in path.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n"):
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError(f"{text[:20]!r} is no object")
        except ValueError as error:
            if cut is not None:
                raise _unreadable(path, error) from error
            cut = error
            continue
        if cut is not None and "replicas" not in line:
            raise _unreadable(path, cut)
        cut = None
        yield line


def _unreadable(path: Path, error: Exception) -> InvalidArgumentError:
    return InvalidArgumentError(f"{str(path)!r} is no receipt, or a damaged one: {type(error).__name__}: {error}")
