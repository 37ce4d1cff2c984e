"""Stages 4 to 6 of a step where replicas share memory: they sum, clip and update span by span, each its own part.

*Replicated*: the owner of a part sums it, in its slab; every replica updates all of its parameters from the owners'
slabs. *Shared*: the owner also updates its part, for the whole node. A part is worked on in blocks that stay in the
cache, so that without norms memory is read and written once. Norms need all sums first: two sweeps then.

What hooks have to see is not summed here but as a whole (``Sweep.sum``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distopt.arena import SPAN_UNIT
from distopt.arrays import Array
from distopt.distribute.node import Node
from distopt.distribute.node_sum import NodeSum, Spread
from distopt.kernels import add_tree, clip, divide, square_sums, tree_sum, update
from distopt.partition import BLOCK, Block, blocks_of, parts_of, ranges_of
from distopt.slab import Gradients, Slab
from distopt.transformers.clipping import Buffer, Factors, sparse_buffers, squares_of

if TYPE_CHECKING:
    from distopt.optimizers.base import BaseOptimizer


class Sweep:
    """How the replicas of a node sum one slab and update from it; made together.

    Args:
        node: this replica's node.
        slab: its gradients.
        is_shared: whether parameters and slots are the node's.
        wire: dtype of what travels between nodes; None is float32 or wider.

    Raises:
        NoSharedMemoryError: the slabs can't be shared.
    """

    def __init__(self, node: Node, slab: Slab, *, is_shared: bool, wire: np.dtype[Any] | None) -> None:
        self._node, self._slab, self._is_shared, self._wire = node, slab, is_shared, wire
        segments = node.share(slab.segment)
        memories = [slab.of_another(raw, place) for raw, place in zip(segments, node.members, strict=True)]
        self._flats = {dtype: [flats[dtype] for flats, _ in memories] for dtype in slab.flats}
        for dtype, flat in slab.flats.items():
            self._flats[dtype][node.place] = flat
        self._squares = memories[0][1] if node.place else slab.squares
        self._plans: dict[bytes, _Plan] = {}
        self._scratch = {dtype: np.empty(BLOCK + SPAN_UNIT, dtype) for dtype in slab.flats}

    def __call__(self, optimizer: BaseOptimizer, gradients: Gradients, items: float | None) -> None:
        """Sum the dense gradients of all replicas and update; sparse ones are summed already.

        Args:
            optimizer: whose rule, clipping and slots.
            gradients: this step's; the slab is overwritten.
            items: what to divide the dense sums by, or None.
        """
        if optimizer._merges_rows:
            gradients.sparse = {k: slices.deduplicate() for k, slices in gradients.sparse.items()}
        plan, clipping = self._plan(gradients.dense), optimizer._clipping
        rows = sparse_buffers(gradients) if clipping.active else []
        clipping.limit(rows)
        adjust = _Adjust(items, clipping.clipvalue, None)
        self._node.barrier()
        if self._is_shared and not clipping.needs_norms and self._node.is_whole_job:
            self._sum_and_update(plan, optimizer, adjust)
        else:
            plan.sum()
            if clipping.needs_norms:
                adjust = self._norms(plan, optimizer, gradients, adjust, rows)
            elif not self._is_shared:
                plan.publish()
                self._node.barrier()
            self._update(plan, optimizer, adjust)
        optimizer._update(gradients, dense_done=True)
        if self._is_shared:
            plan.publish_parameters(optimizer)
        self._node.barrier()

    def does_all(self, optimizer: BaseOptimizer) -> bool:
        """Whether nothing has to see the whole sum, so that the step is done part by part."""
        norms = optimizer._clipping.clipnorm is not None and optimizer._clipping.global_clipnorm is not None
        return optimizer._sums_flat and optimizer._updates_flat and not optimizer._transformers and not norms

    def sum(self, entries: Sequence[int]) -> None:
        """Put the whole sum of some entries into this replica's slab."""
        plan, place = self._plan(entries), self._node.place
        self._node.barrier()
        plan.sum()
        plan.publish()
        self._node.barrier()
        for flats, ranges, holder in plan.elsewhere:
            for begin, end in ranges:
                np.copyto(flats[place][begin:end], flats[holder][begin:end])
        self._node.barrier()

    def _plan(self, entries: Sequence[int]) -> _Plan:
        key = b"all" if entries is self._slab.all_entries else np.asarray(entries, np.int64).tobytes()
        if key not in self._plans:
            if len(self._plans) > 64:
                self._plans.clear()
            self._plans[key] = _Plan(self, entries)
        return self._plans[key]

    def _sum_and_update(self, plan: _Plan, optimizer: BaseOptimizer, adjust: _Adjust) -> None:
        for held in plan.own:
            for block in held.blocks:
                total = self._scratch[block.dtype][: block.end - block.begin]
                add_tree([flat[block.begin : block.end] for flat in self._flats[block.dtype]], total)
                adjust(total, block)
                _update_block(optimizer, block, total)

    def _norms(
        self, plan: _Plan, optimizer: BaseOptimizer, gradients: Gradients, adjust: _Adjust, rows: list[Buffer]
    ) -> _Adjust:
        """Bring the owned sums to where norms are taken, and return what is left to do when norms are known."""
        for held in plan.own:
            for block in held.blocks:
                total = held.source[block.begin : block.end]
                adjust(total, block)
                spans, places = block.norm_blocks
                self._squares[places] = square_sums(total, spans)
        plan.publish_squares(self._squares)
        if not self._is_shared:
            plan.publish()
        self._node.barrier()
        squares = squares_of(rows, gradients)
        for k in gradients.dense:
            blocks = self._squares[self._slab.first_norm_block[k] : self._slab.first_norm_block[k + 1]]
            squares[k] = blocks[0] if len(blocks) == 1 else tree_sum(blocks)
        factors = optimizer._clipping.factors(squares, gradients.entries)
        for buffer in rows:
            factors(buffer)
        return _Adjust(None, None, factors)

    def _update(self, plan: _Plan, optimizer: BaseOptimizer, adjust: _Adjust) -> None:
        for held in plan.own if self._is_shared else plan.held:
            for block in held.whole if adjust.is_idle else held.blocks:
                total = held.source[block.begin : block.end]
                if not adjust.is_idle:
                    total, source = self._scratch[block.dtype][: total.size], total
                    np.copyto(total, source)
                    adjust(total, block)
                _update_block(optimizer, block, total)


@dataclass
class _Adjust:
    """What is done to the elements of a sum before the update."""

    items: float | None
    clipvalue: float | None
    factors: Factors | None

    @property
    def is_idle(self) -> bool:
        return not self.items and self.clipvalue is None and self.factors is None

    def __call__(self, total: Array, block: Block) -> None:
        if self.items:  # with none, nobody had data, and all gradients are zero
            divide(total, block.spans, self.items)
        if self.clipvalue is not None:
            clip(total, block.spans, self.clipvalue)
        if self.factors is not None:
            self.factors((total, block.spans, block.entries))


def _update_block(optimizer: BaseOptimizer, block: Block, total: Array) -> None:
    rule = optimizer._known_rule()
    for home, table in block.updates:
        update(rule, home.flat, total, optimizer._slots_in(home), optimizer._step_scalars(block.dtype), table)


class _Held:
    """What one owner owns of one flat buffer, and where its sum lies on this node."""

    def __init__(self, slab: Slab, parts: Sequence[Any], source: Array) -> None:
        self.source = source
        self.parts = parts
        self.blocks = list(blocks_of(slab, parts))
        self.whole = [Block(slab, run) for run in _runs(parts)]


def _runs(parts: Sequence[Any]) -> list[list[Any]]:
    """Parts that follow one another in the slab."""
    runs: list[list[Any]] = []
    for part in parts:
        if runs and runs[-1][-1].end == part.begin:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


class _Plan:
    """What is to be done for a set of entries."""

    def __init__(self, sweep: Sweep, entries: Sequence[int]) -> None:
        node, slab = sweep._node, sweep._slab
        replicas, me = node.communicator.size, node.communicator.index
        self._node = node
        self._sums: list[NodeSum] = []
        self.held: list[_Held] = []
        self.own: list[_Held] = []
        self.elsewhere: list[tuple[list[Array], list[tuple[int, int]], int]] = []
        sums: list[list[Array]] = [[] for _ in range(replicas)]
        for dtype, flats in sweep._flats.items():
            owned = parts_of(slab, dtype, entries, replicas)
            ranges = list(map(ranges_of, owned))
            self._sums.append(NodeSum(node, flats, ranges, sweep._wire))
            for owner, parts in enumerate(owned):
                holder = node.members.index(node.holder(owner, node.here))
                held = _Held(slab, parts, flats[holder])
                self.held.append(held)
                if owner == me:
                    self.own.append(held)
                if holder != node.place:
                    self.elsewhere.append((flats, ranges[owner], holder))
                sums[owner] += [flats[holder][begin:end] for begin, end in ranges[owner]]
        self._spread = Spread(node, sums)
        self._slab, self._entries = slab, entries
        self._late: dict[str, Spread] = {}

    def sum(self) -> None:
        """Put the sums of what this replica owns into its slab."""
        for each in self._sums:
            each()

    def publish(self) -> None:
        """Bring the sums to the other nodes."""
        self._spread()

    def publish_squares(self, squares: Array) -> None:
        """Bring the block sums of squares to the other nodes."""
        if self._node.is_whole_job:
            return
        if "squares" not in self._late:
            self._late["squares"] = Spread(
                self._node, self._by_owner(lambda part: [_norm_range(self._slab, part, squares)])
            )
        self._late["squares"]()

    def publish_parameters(self, optimizer: BaseOptimizer) -> None:
        """Bring updated parameters to the other nodes."""
        if self._node.is_whole_job:
            return
        if "parameters" not in self._late:
            self._late["parameters"] = Spread(self._node, self._by_owner(self._parameters))
        self._late["parameters"]()

    def _by_owner(self, views: Any) -> list[list[Array]]:
        replicas = self._node.communicator.size
        by_owner: list[list[Array]] = [[] for _ in range(replicas)]
        for dtype in self._slab.flats:
            for owner, parts in enumerate(parts_of(self._slab, dtype, self._slab.all_entries, replicas)):
                by_owner[owner] += [view for part in parts for view in views(part)]
        return by_owner

    def _parameters(self, part: Any) -> list[Array]:
        variable = self._slab.variables[part.entry]
        begin = variable._start + part.first
        return [variable._arena.flat[begin : begin + part.length]]


def _norm_range(slab: Slab, part: Any, squares: Array) -> Array:
    first = slab.first_norm_block[part.entry] + part.first // SPAN_UNIT
    return squares[first : first - (-part.length // SPAN_UNIT)]
