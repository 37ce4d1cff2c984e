"""``python -m distopt.verify.first_step OUTPUT script.py args...`` runs a script up to its first aggregated step.

Replica 0 writes the gradients of that step, after the aggregation and before clipping, to OUTPUT. Then the script ends,
on all replicas, as if it had called ``sys.exit()`` after the step. Parameters are not shared between replicas, even if
the script asks for that. ``distopt verify`` compares two such recordings.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distopt.arrays import Array, wide_dtype
from distopt.data.current import current_items
from distopt.distribute.collectives import exchange
from distopt.distribute.strategy import Strategy, get_strategy
from distopt.process.moments import Moment, StopAtMoment
from distopt.process.observers import add_observer
from distopt.program import script
from distopt.slabs.report import StepReport
from distopt.variables.indexed_slices import IndexedSlices


@dataclass(frozen=True)
class Entry:
    """One variable of a step."""

    name: str
    dtype: str
    parameter: Array
    """The variable's value before the step."""
    gradient: Array | None
    """The aggregated gradient (only its ``rows``, where these are given); None where no replica has one."""
    rows: Array | None = None
    """The rows of a sparse gradient, each once, in order."""


@dataclass(frozen=True)
class Recording:
    """The first aggregated step of a run."""

    items: Sequence[float | None]
    """The items of every replica, as the script has given them."""
    examples: Sequence[int | None]
    """The number of examples in every replica's current batch of ``distopt.data``."""
    entries: Sequence[Entry]

    @property
    def replicas(self) -> int:
        """Return the number of replicas."""
        return len(self.items)

    def save(self, path: Path) -> None:
        """Write a file, complete or not at all; 16-bit floats are stored as float32."""
        arrays = {}
        for k, entry in enumerate(self.entries):
            for part in ("parameter", "gradient", "rows"):
                array = getattr(entry, part)
                if array is not None:
                    arrays[f"{part}-{k}"] = array.astype(wide_dtype(array.dtype), copy=False)
        head = {
            "items": self.items,
            "examples": self.examples,
            "variables": [(entry.name, entry.dtype) for entry in self.entries],
        }
        unfinished = path.with_name(path.name + ".new")
        with unfinished.open("wb") as file:
            np.savez(file, head=np.array(json.dumps(head)), **arrays)
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read a file that ``save`` has written."""
        with np.load(path, allow_pickle=False) as file:
            head = json.loads(str(file["head"]))
            entries = [
                Entry(name, dtype, *(file.get(f"{part}-{k}") for part in ("parameter", "gradient", "rows")))
                for k, (name, dtype) in enumerate(head["variables"])
            ]
        return cls(head["items"], head["examples"], entries)


class FirstStepDone(StopAtMoment):
    """Ends the script, on every replica."""


def main(arguments: Sequence[str]) -> None:
    """Run a script (what follows ``OUTPUT``) until its first step is recorded."""
    output, *command = arguments
    add_observer(Recorder(Path(output)), Moment.STEP, Moment.GRADIENTS, Moment.SUMS)
    with contextlib.suppress(FirstStepDone):
        script.main(command)


class Recorder:
    """An observer of steps that records the first aggregated step, and then ends the program.

    Later stages of the step (limits, transformers, the update) are not recorded: with different sums, their results
    could not be compared.

    Args:
        output: the file that replica 0 writes.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._counts: list[list[Any]] = []
        self._values: list[Array] = []

    def __call__(self, moment: Moment, subject: Any) -> None:
        """Record the data of a step at this moment; after the sum, save the recording and end the program."""
        if moment is Moment.STEP:
            _replicate(get_strategy())
        elif moment is Moment.GRADIENTS:
            self._note_counts(subject)
        else:
            self._save(subject)
            raise FirstStepDone

    def _note_counts(self, report: StepReport) -> None:
        mine = json.dumps([None if report.items is None else float(report.items), current_items()]).encode()
        with report.strategy.scope():
            self._counts = [json.loads(text) for text in exchange("distopt verify", mine)]
        self._values = [value.copy() for value in report.parameters]

    def _save(self, report: StepReport) -> None:
        if report.strategy.replica_index != 0:
            return
        variables, gradients = report.variables, report.by_variable
        entries = [
            _entry(variable, value, None if gradient is None else _copy(gradient))
            for variable, value, gradient in zip(variables, self._values, gradients, strict=True)
        ]
        items, examples = zip(*self._counts, strict=True)
        Recording(items, examples, entries).save(self._output)


def _replicate(strategy: Strategy) -> None:
    """Give every replica its own parameters, so that the whole sum can be seen, and turn the receipt off.

    With a receipt, this run of one step would count as the continuation of the run in the receipt's directory.
    """
    strategy.update, strategy.receipt = "replicated", None


def _copy(gradient: Any) -> Array | IndexedSlices:
    return gradient.deduplicate() if isinstance(gradient, IndexedSlices) else np.array(gradient)


def _entry(variable: Any, value: Array, gradient: Array | IndexedSlices | None) -> Entry:
    if isinstance(gradient, IndexedSlices):
        order = np.argsort(gradient.indices)
        return Entry(variable.name, value.dtype.name, value, gradient.values[order], gradient.indices[order])
    return Entry(variable.name, value.dtype.name, value, gradient)


if __name__ == "__main__":
    main(sys.argv[1:])
