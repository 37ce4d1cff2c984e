"""A receipt: one line per step, from which ``distopt diff`` tells where two runs part.

A replica's file consists of lines of JSON. A line with ``replicas`` begins a run; a run that is resumed is appended. A
line with ``variables`` names the variables whose digests the steps after this line list. Numbers that are not whole are
written as text, which keeps every bit and can hold NaN.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import xxhash

from distopt.arrays import Array, native
from distopt.errors import InvalidArgumentError
from distopt.process.replica import Replica, current_replica
from distopt.variables.indexed_slices import IndexedSlices

Gradient = Array | IndexedSlices | None

_written: WeakKeyDictionary[Replica, dict[tuple[str, int, int], Receipt]] = WeakKeyDictionary()


class Receipt:
    """Writes what one replica had before and after every step: digests, items, the norm of the gradients.

    The digest of an array is the 64-bit XXH3 of its bytes. The digest of a sparse gradient covers indices and values,
    in their order; a gradient that is None has no digest. The digest over all parameters is computed from their
    digests.

    Args:
        directory: the directory for ``replica-<index>.jsonl``; made if it is missing. If the file exists, the run
            counts as the continuation of the run in it: new steps follow the old ones, or replace those done again.
        replica_index: the index of this replica.
        num_replicas: the number of replicas.

    Raises:
        InvalidArgumentError: the directory can't be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     receipt = Receipt(directory, 0, 1)
        ...     receipt.note_gradients(0, 8.0, ["w"], [np.ones(2, "float32")])
        ...     receipt.note_update(0, 8.0, 2**0.5, ["w"], [np.zeros(2, "float32")])
        ...     print((Path(directory) / "replica-0.jsonl").read_text().splitlines()[-1])
        {"step": 0, "items": "8.0", "gradients": ["774376da7ad20e6b"], "total_items": "8.0", \
"gradient_norm": "1.4142135623730951", "parameters": ["c77b3abb6f87acd9"], "digest": "146f1658cfecec21"}

    Source: XXH3, Y. Collet, xxHash 0.8.
    """

    def __init__(self, directory: str | os.PathLike[str], replica_index: int, num_replicas: int) -> None:
        self._path = Path(directory, f"replica-{replica_index}.jsonl")
        versions = {name: metadata.version(name) for name in ("distopt", "numpy", "numba")}
        self._run = {"receipt": 1, "replica": replica_index, "replicas": num_replicas, "versions": versions}
        self._variables: list[list[Any]] | None = None
        self._step: dict[str, Any] = {}
        self._names: list[str] = []
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read() != b"\n":  # the run before was killed while it wrote
                        file.write(b"\n")
        except OSError as error:
            raise InvalidArgumentError(
                f"the receipt of replica {replica_index} can't be written to {str(self._path)!r}: {error}. Name a "
                "directory that every replica may write to"
            ) from error

    @classmethod
    def of(cls, directory: str | os.PathLike[str], replica_index: int, num_replicas: int) -> Receipt:
        """Return the receipt with these arguments that this replica writes already, else a new receipt.

        All optimizers of a replica must share one receipt, because every receipt begins with a description of the run.
        """
        written = _written.setdefault(current_replica(), {})
        key = os.fspath(directory), replica_index, num_replicas
        if key not in written:
            written[key] = cls(*key)
        return written[key]

    def note_gradients(self, step: int, items: float | None, names: list[str], arrays: Sequence[Gradient]) -> None:
        """Note this replica's own gradients, before they are summed.

        Args:
            step: ``iterations`` before the step.
            items: the items of this replica, or None.
            names: the names of the variables, in the order of the step.
            arrays: their gradients, of any shape and dtype, not changed; None where a variable has no gradient.
        """
        self._names = names
        self._step = {"step": int(step), "items": _text(items), "gradients": list(map(_digest_of_gradient, arrays))}

    def note_update(
        self, step: int, total_items: float | None, gradient_norm: float, names: list[str], arrays: Sequence[Array]
    ) -> None:
        """Note the state that all replicas have after the update, and write the line of this step.

        Args:
            step: the same as in ``note_gradients``.
            total_items: the items of all replicas together, or None.
            gradient_norm: the norm of the aggregated gradients.
            names: the same as in ``note_gradients``.
            arrays: the parameters, of any shape and dtype; not changed.

        Raises:
            InvalidArgumentError: ``note_gradients`` was not called for this step and these variables.
        """
        if self._step.get("step") != step or self._names != names:
            raise InvalidArgumentError(
                f"note_update of step {step} with the variables {names}: note_gradients was called last for step "
                f"{self._step.get('step')} with {self._names}; call both, in this order, for every step"
            )
        digests = [_digest_of(array) for array in arrays]
        line = self._step | {
            "total_items": _text(total_items),
            "gradient_norm": _text(gradient_norm),
            "parameters": digests,
            "digest": xxhash.xxh3_64_hexdigest(" ".join(digests).encode()),
        }
        variables = [[name, array.dtype.name, list(array.shape)] for name, array in zip(names, arrays, strict=True)]
        lines = [line] if variables == self._variables else [self._head(variables), line]
        with self._path.open("a", encoding="utf-8") as file:  # nothing is left open that a failure would lose
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        self._step = {}

    def _head(self, variables: list[list[Any]]) -> dict[str, Any]:
        """Return a line that names the variables of the following steps; the first one also describes the run."""
        is_first, self._variables = self._variables is None, variables
        return (self._run if is_first else {}) | {"variables": variables}


def _digest_of(*parts: Array) -> str:
    result = xxhash.xxh3_64()
    for part in parts:
        # As bytes: not every dtype (bfloat16) has a buffer that others understand.
        result.update(np.ascontiguousarray(native(part)).reshape(-1).view(np.uint8).data)
    return result.hexdigest()


def _digest_of_gradient(gradient: Gradient) -> str | None:
    if gradient is None:
        return None
    if isinstance(gradient, IndexedSlices):
        return _digest_of(gradient.indices, gradient.values)
    return _digest_of(gradient)


def _text(number: float | None) -> str | None:
    return None if number is None else repr(float(number))
