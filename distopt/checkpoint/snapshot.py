"""Copies the state, to be written while the training goes on, and checks that all replicas have the same state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from distopt.arrays import Array
from distopt.checkpoint.agreement import tell
from distopt.checkpoint.pieces import Piece
from distopt.checkpoint.state import CheckpointEntry, Live
from distopt.distribute.agreement.communicator import Communicator
from distopt.errors import CheckpointError
from distopt.memory.digests import digest

_SAMPLE = 64
"""Elements of each variable that replicas compare, before each writes a part of what should be the same on all."""


class Snapshot:
    """Memory for one replica's pieces, used again for every checkpoint."""

    def __init__(self) -> None:
        self.buffer = np.empty(0, np.uint8)

    def make_room(self, pieces: Sequence[tuple[Piece, CheckpointEntry]]) -> None:
        """Allocate the memory, unless it has the right size already."""
        count = sum(_bytes(*each).size for each in pieces)
        if self.buffer.size != count:
            self.buffer = np.empty(count, np.uint8)

    def copy_from(self, pieces: Sequence[tuple[Piece, CheckpointEntry]]) -> None:
        """Copy the pieces, one after another."""
        begin = 0
        for each in pieces:
            source = _bytes(*each)
            self.buffer[begin : begin + source.size] = source
            begin += source.size


def _bytes(piece: Piece, entry: CheckpointEntry) -> Array:
    return entry.bytes[piece.begin : piece.end].reshape(-1)


def sample_of(live: Live) -> dict[str, Array]:
    """Return some elements of each variable that every replica has in its own memory, and that must be the same on all.

    Return all elements of a variable that a step without aggregation has written.
    """
    private = {key: entry for key, entry in live.common.items() if entry.buffer is None}
    return {
        k: e.bytes[:: 1 if e.variable.storage.may_differ else e.variable.size // _SAMPLE or 1]
        for k, e in private.items()
    }


def raise_difference(communicator: Communicator, sample: Mapping[str, Array]) -> None:
    """Raise an error that says, on all replicas, whose sample differs (collective).

    Raises:
        CheckpointError: always.
    """
    rows = tell(communicator, {key: digest([array]) for key, array in sample.items()})
    key, other = next((key, r) for key in sample for r, row in enumerate(rows) if row[key] != rows[0][key])
    raise CheckpointError(
        f"replica {other} has other values than replica 0, first in {key!r}, and a checkpoint holds one state for all: "
        "call distopt.broadcast(variables) before saving (after steps with experimental_aggregate_gradients=False, say)"
    )
