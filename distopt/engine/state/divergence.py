"""Are the replicas' parameters and slots still equal? A digest of them travels in the header of every k-th step.

*Replicated*: the digests are compared. *Shared*: nodes compare their parameters; and the owner of a span compares it
with what it left there after the step before, so that a flipped bit or somebody else's write is found there too.

What a step with ``experimental_aggregate_gradients=False`` has written may differ, until it is broadcast.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import xxhash

from distopt.arrays import Array
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import Agreement, Flag, exchange_bytes, exchange_texts
from distopt.distribute.collectives import copy_from
from distopt.distribute.strategy import Strategy
from distopt.engine.state.slot_store import SlotStore
from distopt.engine.state.training_state import TrainingState
from distopt.errors import DivergedError
from distopt.slabs.listing import Listing
from distopt.variables.variable import Variable

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Fingerprint:
    """The digest of what an owner left in a range of a variable after a step."""

    variable: Variable
    content: Array
    writes: int
    digest: int

    @property
    def is_broken(self) -> bool:
        """Return whether the range has changed, and not by ``assign``."""
        return self.writes == self.variable.storage.writes and self.digest != _digest(self.content)


class StateCheck:
    """The check of parameters and slots in every k-th header of one optimizer, and what follows from it.

    Args:
        training: whose state it is.
        slots: its slots.
    """

    def __init__(self, training: TrainingState, slots: SlotStore) -> None:
        self._training, self._slots = training, slots
        self._fingerprints: list[Fingerprint] = []

    def is_due(self, strategy: Strategy) -> bool:
        """Return whether the state is checked before the next step."""
        every, step = strategy.checks.state_every, self._training.steps
        wanted = every > 0 and step > 0 and step % every == 0
        return wanted and strategy.num_replicas_in_sync > 1 and strategy.broadcast

    def digest(self, strategy: Strategy, listing: Listing, state: Sequence[Variable]) -> tuple[int, int]:
        """Return what the header of a checked step says: a digest of the state, and flags."""
        if not strategy.shares_parameters:
            return _sum_of_digests(_compared(strategy, listing, state)), 0
        broken = any(fingerprint.is_broken for fingerprint in self._fingerprints)
        location = strategy.communicator.location
        digest = 0
        if location.replicas_on_node < strategy.num_replicas_in_sync:
            digest = _sum_of_digests(listing.variables, location.index_on_node, location.replicas_on_node)
        return digest, Flag.CHANGED if broken else 0

    def record_fingerprints(self, listing: Listing) -> None:
        """Note what this replica leaves in the memory that it owns, as it is after a step."""
        self.forget()
        for variable in listing.variables:
            buffer, begin = variable.storage.allocated_buffer, variable.storage.start
            parts = buffer.parts(begin, variable.size)
            flats = [(variable, buffer.flat)]
            flats += [(slot, self._slots.flats[buffer, label]) for label, slot in self._slots.of(variable)]
            for each, flat in flats:
                pieces = [flat[start:end] for start, end in parts]
                writes = each.storage.writes
                self._fingerprints += [Fingerprint(each, piece, writes, _digest(piece)) for piece in pieces]

    def record_if_due(self, strategy: Strategy | None, listing: Listing) -> None:
        """In shared mode, note what a step leaves where the next one compares it."""
        if strategy is not None and strategy.shares_parameters and self.is_due(strategy):
            self.record_fingerprints(listing)

    def forget(self) -> None:
        """Forget what was left: somebody else writes to it from now on."""
        self._fingerprints = []

    def compare(self, strategy: Strategy, listing: Listing, state: Sequence[Variable], agreement: Agreement) -> None:
        """Compare what the headers said; on a difference look closer, then raise or resynchronise, on all replicas.

        Raises:
            DivergedError: the state differs, or changed between two steps.
        """
        communicator = strategy.communicator
        if any(flags & Flag.CHANGED for flags in agreement.flags):
            self._raise_changed(communicator)
        self.forget()  # steps write to slots from now on
        totals = dict.fromkeys(communicator.nodes if strategy.shares_parameters else range(communicator.size), 0)
        for replica, digest in enumerate(agreement.states):
            totals[communicator.nodes[replica] if strategy.shares_parameters else replica] += digest
        if len({total % 2**64 for total in totals.values()}) > 1:
            self._look_closer(strategy, _compared(strategy, listing, state))

    def _raise_changed(self, communicator: Communicator) -> NoReturn:
        mine = next((each.variable.name for each in self._fingerprints if each.is_broken), "")
        names = exchange_texts(communicator, mine)
        found = ", ".join(f"{name!r} (replica {r} owns the element)" for r, name in enumerate(names) if name)
        raise DivergedError(
            f"before step {self._training.steps} memory has changed that only distopt writes: {found}. Something wrote "
            "to a parameter or slot between two steps, past assign (through a view, from compiled code), or a bit "
            f"flipped. {_RESTORE}"
        )

    def _look_closer(self, strategy: Strategy, compared: Sequence[Variable]) -> None:
        communicator = strategy.communicator
        mine = [0 if variable.storage.may_differ else _digest(variable.storage.array) | 1 for variable in compared]
        rows = exchange_bytes(communicator, np.array(mine, np.uint64).tobytes())
        table = np.array([np.frombuffer(row, np.uint64) for row in rows])
        differs = (table != table[0]).any(0) & (table != 0).all(0)
        if not differs.any():  # each has left out something else: what a step of its own alone has written
            return
        text = self._describe(strategy, compared, table, differs)
        if strategy.checks.on_divergence == "raise":
            raise DivergedError(
                f"{text}. A replica has updated by something else than the others: random numbers in a hook, an assign "
                f"on one replica, a write through a view, a flipped bit. {_RESTORE}; Checks(on_divergence='resync') "
                "goes on from replica 0's values"
            )
        if communicator.index == 0:
            warnings.warn(f"{text}. All go on from replica 0's values", stacklevel=2)
        changed = [variable for variable, different in zip(compared, differs, strict=True) if different]
        copy_from(communicator, [variable.storage.array for variable in changed], source=0)
        for variable in changed:
            variable.storage.note_write()
        self._slots.node_barrier()

    def _describe(self, strategy: Strategy, compared: Sequence[Variable], table: Array, differs: Array) -> str:
        first = int(np.argmax(differs))
        groups: dict[int, list[int]] = {}
        for replica, digest in enumerate(table[:, first].tolist()):
            groups.setdefault(digest, []).append(replica)
        who = "; ".join(f"replica{'s' * (len(r) > 1)} {', '.join(map(str, r))}: {d:016x}" for d, r in groups.items())
        return (
            f"before step {self._training.steps} the replicas' state differs, first in {compared[first].name!r} "
            f"(digests: {who}), in {int(differs.sum())} of {len(compared)} variables. It was equal, or not compared "
            f"yet, {strategy.checks.state_every} steps before"
        )


_RESTORE = "Restore the last checkpoint"


def _compared(strategy: Strategy, listing: Listing, state: Sequence[Variable]) -> list[Variable]:
    """Parameters and slots; where they are the node's, nodes have the parameters in common and no more."""
    return list(dict.fromkeys([*listing.variables, *(() if strategy.shares_parameters else state)]))


def _sum_of_digests(variables: Iterable[Variable], share: int = 0, shares: int = 1) -> int:
    """Add the digests of blocks; several replicas may do a share of them each."""
    total, number = 0, 0
    for variable in variables:
        content = _bytes(variable.storage.array)
        for begin in range(0, content.size, _BLOCK_BYTES):
            if number % shares == share and not variable.storage.may_differ:
                total += xxhash.xxh3_64_intdigest(content[begin : begin + _BLOCK_BYTES].data, seed=number)
            number += 1
    return total % 2**64


def _digest(array: Array) -> int:
    return xxhash.xxh3_64_intdigest(_bytes(array).data)


def _bytes(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)
