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
from distopt.distribute.node_sum import NodeSum
from distopt.kernels import add_tree, clip, divide, square_sums, tree_sum, update
from distopt.optimizers.span_plan import SpanPlan
from distopt.partition import BLOCK, Block
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
        memories = list(map(slab.of_another, segments))
        self._flats = {dtype: [flats[dtype] for flats, _ in memories] for dtype in slab.flats}
        for dtype, flat in slab.flats.items():
            self._flats[dtype][node.place] = flat
        self._squares = memories[0][1] if node.place else slab.squares
        self._plans: dict[bytes, SpanPlan] = {}
        self.communicator = node.communicator
        self.are_summed = False
        """Whether the dense gradients of this step were summed while they came."""
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
        if self._is_shared and not (clipping.needs_norms or self.are_summed) and self._node.is_whole_job:
            self._sum_and_update(plan, optimizer, adjust)
        else:
            if not self.are_summed:
                plan.sum()
            if clipping.needs_norms:
                adjust = self._norms(plan, optimizer, gradients, adjust, rows)
            elif not self._is_shared:
                plan.publish()
                self._node.barrier()
            self._update(plan, optimizer, adjust)
        optimizer._update(gradients, dense_done=True)
        if self._is_shared:
            plan.publish_parameters()
        self._node.barrier()

    def does_all(self, optimizer: BaseOptimizer) -> bool:
        """Whether nothing has to see the whole sum, so that the step is done part by part."""
        norms = optimizer._clipping.clipnorm is not None and optimizer._clipping.global_clipnorm is not None
        return optimizer._sums_flat and optimizer._updates_flat and not optimizer._transformers and not norms

    def sum(self, entries: Sequence[int]) -> None:
        """Put the whole sum of some entries into this replica's slab."""
        plan, place = self._plan(entries), self._node.place
        self._node.barrier()
        if not self.are_summed:
            plan.sum()
        plan.publish()
        self._node.barrier()
        for held in plan.all:
            if held.holder != place:
                flat = self._flats[held.source.dtype][place]
                for begin, end in held.ranges:
                    np.copyto(flat[begin:end], held.source[begin:end])
        self._node.barrier()

    def sums(self, node: Node, entries: Sequence[int]) -> list[NodeSum]:
        """Return the sums of some entries, for the communication thread.

        Args:
            node: the same replicas, over the thread's communicator.
            entries: which.
        """
        return SpanPlan(node, self._slab, self._flats, entries, self._wire).sums

    def _plan(self, entries: Sequence[int]) -> SpanPlan:
        key = b"all" if entries is self._slab.all_entries else np.asarray(entries, np.int64).tobytes()
        if key not in self._plans:
            if len(self._plans) > 64:
                self._plans.clear()
            self._plans[key] = SpanPlan(self._node, self._slab, self._flats, entries, self._wire)
        return self._plans[key]

    def _sum_and_update(self, plan: SpanPlan, optimizer: BaseOptimizer, adjust: _Adjust) -> None:
        for held in plan.own:
            for block in held.blocks:
                total = self._scratch[block.dtype][: block.end - block.begin]
                add_tree([flat[block.begin : block.end] for flat in self._flats[block.dtype]], total)
                adjust(total, block)
                _update_block(optimizer, block, total)

    def _norms(
        self, plan: SpanPlan, optimizer: BaseOptimizer, gradients: Gradients, adjust: _Adjust, rows: list[Buffer]
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

    def _update(self, plan: SpanPlan, optimizer: BaseOptimizer, adjust: _Adjust) -> None:
        for held in plan.own if self._is_shared else plan.all:
            for block in held.runs if adjust.is_idle else held.blocks:
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
