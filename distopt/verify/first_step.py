"""``python -m distopt.verify.first_step OUTPUT script.py args...``: run a script up to its first aggregated step.

What that step has after the aggregation, before clipping, is written to OUTPUT by replica 0; then the script ends, on
all replicas, as if it had called ``sys.exit()`` after the step. Parameters are not shared between replicas, whatever
the script says. ``distopt verify`` compares two such recordings.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distopt.arrays import Array, wide_dtype
from distopt.data.current import current_items
from distopt.distribute.agreement.header import telling_the_others
from distopt.distribute.collectives import exchange
from distopt.distribute.strategy import Strategy
from distopt.engine import streamed_step
from distopt.engine.call import StepCall
from distopt.optimizers.common import base
from distopt.slabs.fitting import Pair
from distopt.slabs.gradients import Gradients
from distopt.variables.indexed_slices import IndexedSlices


@dataclass(frozen=True)
class Entry:
    """One variable of a step."""

    name: str
    dtype: str
    parameter: Array
    """Its value before the step."""
    gradient: Array | None
    """The aggregated gradient; with ``rows`` only those rows of it; None where no replica has one."""
    rows: Array | None = None
    """The rows of a sparse gradient, each once, in order."""


@dataclass(frozen=True)
class Recording:
    """The first aggregated step of a run."""

    items: Sequence[float | None]
    """Of every replica, as the script gave them."""
    examples: Sequence[int | None]
    """Of every replica's current batch of ``distopt.data``."""
    entries: Sequence[Entry]

    @property
    def replicas(self) -> int:
        """The number of replicas."""
        return len(self.items)

    def save(self, path: Path) -> None:
        """Write a file, which is there complete or not at all; 16-bit floats are kept as float32."""
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
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as file:
            head = json.loads(str(file["head"]))
            entries = [
                Entry(name, dtype, *(file.get(f"{part}-{k}") for part in ("parameter", "gradient", "rows")))
                for k, (name, dtype) in enumerate(head["variables"])
            ]
        return cls(head["items"], head["examples"], entries)


class FirstStepDone(SystemExit):
    """Ends the script, on every replica."""


def main(output: str, script: str, *arguments: str) -> None:
    """Run a script until its first step is recorded."""
    sys.argv = [script, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    Strategy.__init__ = _replicated(Strategy.__init__)  # type: ignore[method-assign]
    for module in (base, streamed_step):
        module.do_step = _recorded(module.do_step, Path(output))  # type: ignore[attr-defined]
    with contextlib.suppress(FirstStepDone):
        runpy.run_path(script, run_name="__main__")


def _replicated(init: Callable[..., None]) -> Callable[..., None]:
    """Make every strategy one whose replicas have their own parameters, so that the whole sum can be seen.

    It writes no receipt: a run that ends after one step would pass for the continuation of the one in the directory.
    """

    @functools.wraps(init)
    def replicated(self: Strategy, *args: Any, **options: Any) -> None:
        init(self, *args, **options | {"update": "replicated", "receipt": None})

    return replicated


def _recorded(finish: Callable[..., None], output: Path) -> Callable[..., None]:
    """Wrap the end of every step: the first one that aggregates is recorded, and the last one."""

    @functools.wraps(finish)
    def recorded(call: StepCall, read: Callable[[], Gradients], items: float | None) -> None:
        strategy = call.strategy
        with telling_the_others(call.communicator):
            brought = read()
        slab = brought.slab
        if strategy is None or not slab.variables:
            finish(call, lambda: brought, items)
            return
        with strategy.scope():
            mine = json.dumps([None if items is None else float(items), current_items()]).encode()
            counts = [json.loads(text) for text in exchange("distopt verify", mine)]
        pairs: list[Pair] = []

        def record(grads_and_vars: list[Pair]) -> list[Pair]:
            pairs.extend((_copy(gradient), variable) for gradient, variable in grads_and_vars)
            return grads_and_vars

        entries = [(variable, variable.numpy()) for variable in slab.variables]
        # In place of the script's own: what they do can't be compared when what they get differs.
        options = call.engine.options
        for limit in ("clipvalue", "clipnorm", "global_clipnorm"):
            options.limit_by(limit, None)
        options.transform_by([record])
        finish(call, lambda: brought, items)
        if strategy.replica_index == 0:
            gradients = {id(variable): gradient for gradient, variable in pairs}
            Recording(
                [count[0] for count in counts],
                [count[1] for count in counts],
                [_entry(variable, value, gradients.get(id(variable))) for variable, value in entries],
            ).save(output)
        raise FirstStepDone

    return recorded


def _copy(gradient: Any) -> Array | IndexedSlices:
    return gradient.deduplicate() if isinstance(gradient, IndexedSlices) else np.array(gradient)


def _entry(variable: Any, value: Array, gradient: Array | IndexedSlices | None) -> Entry:
    if isinstance(gradient, IndexedSlices):
        order = np.argsort(gradient.indices)
        return Entry(variable.name, value.dtype.name, value, gradient.values[order], gradient.indices[order])
    return Entry(variable.name, value.dtype.name, value, gradient)


if __name__ == "__main__":
    main(*sys.argv[1:])
