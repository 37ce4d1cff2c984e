"""Are the replicas' parameters and slots still equal? A digest of them travels in the header of every k-th step.

*Replicated*: the digests are compared. *Shared*: nodes compare their parameters; and the owner of a span compares it
with what it left there after the step before, so that a flipped bit or somebody else's write is found there too.

What a step with ``experimental_aggregate_gradients=False`` has written may differ, until it is broadcast.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from distopt.arrays import Array
from distopt.distribute.agreement.header import Agreement, Flag, exchange_bytes
from distopt.distribute.collectives import copy_from
from distopt.distribute.strategy import Strategy
from distopt.engine.sweep.sharing import leave_state
from distopt.errors import DivergedError
from distopt.slabs.slab import Slab
from distopt.variables.variable import Variable

if TYPE_CHECKING:
    from distopt.optimizers.common.base import BaseOptimizer

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Sealed:
    """What an owner left in a range of a variable after a step."""

    variable: Variable
    content: Array
    writes: int
    digest: int

    @property
    def is_broken(self) -> bool:
        """Whether it has changed, and not by ``assign``."""
        return self.writes == self.variable.storage.writes and self.digest != _digest(self.content)


def is_due(optimizer: BaseOptimizer, strategy: Strategy, ahead: int = 0) -> bool:
    """Whether the state is checked before the next step, or a later one."""
    every, step = strategy.checks.state_every, _step(optimizer) + ahead
    wanted = every > 0 and step > 0 and step % every == 0
    return wanted and strategy.num_replicas_in_sync > 1 and strategy.broadcast and optimizer._in_lockstep


def state_of(optimizer: BaseOptimizer, strategy: Strategy, slab: Slab) -> tuple[int, int]:
    """Return what the header of a checked step says: a digest of the state, and flags."""
    if not strategy.shares_parameters:
        return _sum_of_digests(_compared(optimizer, strategy, slab)), 0
    broken = any(sealed.is_broken for sealed in optimizer._sealed)
    place = strategy.communicator.place
    state = 0
    if place.replicas_on_node < strategy.num_replicas_in_sync:
        state = _sum_of_digests(slab.variables, place.index_on_node, place.replicas_on_node)
    return state, Flag.CHANGED if broken else 0


def seal(optimizer: BaseOptimizer, slab: Slab) -> None:
    """Note what this replica leaves in the memory that it owns, as it is after a step."""
    optimizer._sealed = []
    for variable in slab.variables:
        home, begin = variable.storage.buffer, variable.storage.start
        parts = home.parts(begin, variable.size)
        slots = [(slot, label) for (owner, label), slot in optimizer._slot_table.items() if owner is variable]
        flats = [(variable, home.flat), *((slot, optimizer._slot_flats[home, label]) for slot, label in slots)]
        for each, flat in flats:
            pieces = [flat[start:end] for start, end in parts]
            optimizer._sealed += [Sealed(each, piece, each.storage.writes, _digest(piece)) for piece in pieces]


def settle(optimizer: BaseOptimizer, strategy: Strategy, slab: Slab, agreement: Agreement) -> None:
    """Compare what the headers said, on all replicas alike; on a difference look closer, then raise or resynchronise.

    Raises:
        DivergedError: the state differs, or changed between two steps.
    """
    communicator = strategy.communicator
    if any(flags & Flag.CHANGED for flags in agreement.flags):
        mine = next((sealed.variable.name for sealed in optimizer._sealed if sealed.is_broken), "")
        names = [text.decode() for text in exchange_bytes(communicator, mine.encode())]
        found = ", ".join(f"{name!r} (replica {r} owns the place)" for r, name in enumerate(names) if name)
        raise DivergedError(
            f"before step {_step(optimizer)} memory has changed that only distopt writes: {found}. Something wrote to "
            "a parameter or slot between two steps, past assign (through a view, from compiled code), or a bit "
            f"flipped. {_RESTORE}"
        )
    optimizer._sealed = []  # steps write to slots from now on
    totals = dict.fromkeys(communicator.nodes if strategy.shares_parameters else range(communicator.size), 0)
    for replica, state in enumerate(agreement.states):
        totals[communicator.nodes[replica] if strategy.shares_parameters else replica] += state
    if len({total % 2**64 for total in totals.values()}) > 1:
        _look_closer(optimizer, strategy, slab)


def _look_closer(optimizer: BaseOptimizer, strategy: Strategy, slab: Slab) -> None:
    communicator = strategy.communicator
    compared = _compared(optimizer, strategy, slab)
    mine = [0 if variable.storage.may_differ else _digest(variable.storage.array) | 1 for variable in compared]
    rows = exchange_bytes(communicator, np.array(mine, np.uint64).tobytes())
    table = np.array([np.frombuffer(row, np.uint64) for row in rows])
    differs = (table != table[0]).any(0) & (table != 0).all(0)
    if not differs.any():  # each has left out something else: what a step of its own alone has written
        return
    first = int(np.argmax(differs))
    groups: dict[int, list[int]] = {}
    for replica, digest in enumerate(table[:, first].tolist()):
        groups.setdefault(digest, []).append(replica)
    who = "; ".join(f"replica{'s' * (len(r) > 1)} {', '.join(map(str, r))}: {d:016x}" for d, r in groups.items())
    text = (
        f"before step {_step(optimizer)} the replicas' state differs, first in {compared[first].name!r} (digests: "
        f"{who}), in {int(differs.sum())} of {len(compared)} variables. It was equal, or not compared yet, "
        f"{strategy.checks.state_every} steps before"
    )
    if strategy.checks.on_divergence == "raise":
        raise DivergedError(
            f"{text}. A replica has updated by something else than the others: random numbers in a hook, an assign on "
            f"one replica, a write through a view, a flipped bit. {_RESTORE}; Checks(on_divergence='resync') goes on "
            "from replica 0's values"
        )
    if communicator.index == 0:
        warnings.warn(f"{text}. All go on from replica 0's values", stacklevel=2)
    changed = [variable for variable, different in zip(compared, differs, strict=True) if different]
    copy_from(communicator, [variable.storage.array for variable in changed], source=0)
    for variable in changed:
        variable.storage.note_assignment()
    leave_state(optimizer)


_RESTORE = "Restore the last checkpoint"


def _step(optimizer: BaseOptimizer) -> int:
    return int(optimizer._iterations.storage.array) // optimizer._micro_steps


def _compared(optimizer: BaseOptimizer, strategy: Strategy, slab: Slab) -> list[Variable]:
    """Parameters and slots; where they are the node's, nodes have the parameters in common and no more."""
    state = [] if strategy.shares_parameters else optimizer._state()
    return list(dict.fromkeys([*slab.variables, *state]))


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


def mark_as_different(variables: Sequence[Variable]) -> None:
    """Note that a step of this replica alone wrote to these variables."""
    for variable in variables:
        variable.storage.may_differ = True
