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

from distopt.arrays import Array
from distopt.distribute.node.node import Node
from distopt.distribute.node.node_sum import NodeSum
from distopt.engine.state.inspection import Inspection
from distopt.engine.sweep.partition import BLOCK, Block
from distopt.engine.sweep.span_plan import SpanPlan
from distopt.kernels import Rule, add_tree, clip, divide, square_sums, tree_sum, update
from distopt.memory.flat_buffer import FlatBuffer
from distopt.memory.layout import SPAN_UNIT
from distopt.slabs.slab import Gradients, Slab
from distopt.transformers import Buffer, Factors, sparse_buffers, squares_of

if TYPE_CHECKING:
    from distopt.optimizers.common.base import BaseOptimizer

DType = np.dtype[Any]


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
        self._scratch = {dtype: np.empty(BLOCK + SPAN_UNIT, dtype) for dtype in slab.flats}

    def __call__(
        self,
        optimizer: BaseOptimizer,
        gradients: Gradients,
        divisor: float | None,
        inspection: Inspection | None,
        *,
        are_summed: bool,
        is_settled: bool,
    ) -> bool:
        """Sum the dense gradients of all replicas and update; of the sparse ones every replica has all rows.

        Args:
            optimizer: whose rule, clipping and slots.
            gradients: this step's; the slab is overwritten.
            divisor: what to divide the dense sums by, or None.
            inspection: looks at the sums before anything is updated, or None.
            are_summed: whether the dense gradients were summed while they came.
            is_settled: whether every replica's slab is as it will be summed: the header came after the last writing.

        Returns:
            Whether the step was done, and ``leave`` comes next; the inspection may leave the step out.
        """
        if optimizer._merges_rows:
            gradients.sparse = {k: slices.deduplicate() for k, slices in gradients.sparse.items()}
        plan, clipping, update_block = self._plan(gradients.dense), optimizer._clipping, _BlockUpdate(optimizer)
        rows = sparse_buffers(gradients) if clipping.active or inspection is not None else []
        if not is_settled:
            self._node.barrier()
        if clipping.needs_norms or inspection is not None:
            adjust = self._sum_and_look(plan, optimizer, gradients, rows, divisor, inspection, are_summed=are_summed)
            if adjust is None:
                return False
            self._update(plan, adjust, update_block)
        else:
            clipping.limit(rows)
            adjust = _Adjust(divisor, clipping.clipvalue, None)
            if self._is_shared and self._node.is_whole_job and not are_summed:
                self._sum_and_update(plan, adjust, update_block)
            else:
                self._sum(plan, are_summed=are_summed)
                self._update(plan, adjust, update_block)
        optimizer._update(gradients, dense_done=True)
        if self._is_shared:
            plan.publish_parameters()
        return True

    def leave(self) -> None:
        """Wait until all replicas of the node have done their part of the step."""
        self._node.barrier()

    def does_all(self, optimizer: BaseOptimizer, *, inspects: bool) -> bool:
        """Whether nothing has to see the whole sum, so that the step is done part by part.

        Args:
            optimizer: whose step it is.
            inspects: whether the sums are looked at, before they are clipped by value.
        """
        if self._slab.has_duplicates:  # it is updated in the order of the list, once per appearance
            return False
        if optimizer._clipping.needs_stages(inspects=inspects):
            return False
        return optimizer._sums_flat and optimizer._updates_flat and not optimizer._transformers

    def overwritten(self, entries: Sequence[int]) -> dict[DType, list[tuple[int, int]]]:
        """Return the ranges of this replica's slab where sums come to lie."""
        plan, ranges = self._plan(entries), dict[DType, list[tuple[int, int]]]()
        for of_owner in plan.by_owner:
            for dtype, held in zip(self._slab.flats, of_owner, strict=True):
                if held.holder == self._node.place:
                    ranges.setdefault(dtype, []).extend(held.ranges)
        return ranges

    def sum(self, entries: Sequence[int], *, are_summed: bool) -> None:
        """Put the whole sum of some entries into this replica's slab."""
        plan, place = self._plan(entries), self._node.place
        self._node.barrier()
        self._sum(plan, are_summed=are_summed)
        for held in plan.all:
            if held.holder != place:
                for run in held.runs:
                    np.copyto(run.rows[place], run.total)
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

    def _sum_and_update(self, plan: SpanPlan, adjust: _Adjust, update_block: _BlockUpdate) -> None:
        for held in plan.own:
            for block in held.blocks:
                total = self._scratch[block.dtype][: block.total.size]
                add_tree(block.rows, total)
                adjust(total, block)
                update_block(total, block)

    def _sum(self, plan: SpanPlan, *, are_summed: bool) -> None:
        """Put the sums where everybody who updates from them finds them."""
        if not are_summed:
            plan.sum()
        if not self._is_shared:
            plan.publish(as_summed=True)
        self._node.barrier()

    def _sum_squares(self, plan: SpanPlan, adjust: _Adjust, *, are_summed: bool) -> None:
        """Put the sums, divided and clipped by value, and their squares where everybody finds them."""
        in_blocks = self._node.is_whole_job and not are_summed
        if not (in_blocks or are_summed):
            plan.sum()
        for held in plan.own:
            for block in held.blocks:
                if in_blocks:
                    add_tree(block.rows, block.total)
                adjust(block.total, block)
                spans, places = block.norm_blocks
                self._squares[places] = square_sums(block.total, spans)
        plan.publish_squares(self._squares)
        if not self._is_shared:
            plan.publish(as_summed=adjust.is_idle)
        self._node.barrier()

    def _sum_and_look(
        self,
        plan: SpanPlan,
        optimizer: BaseOptimizer,
        gradients: Gradients,
        rows: list[Buffer],
        divisor: float | None,
        inspection: Inspection | None,
        *,
        are_summed: bool,
    ) -> _Adjust | None:
        """Sum, take the norms, and return what is left to be done to the sums; None leaves the step out."""
        clipping, first = optimizer._clipping, self._slab.first_norm_block
        if clipping.needs_norms:  # of what the limit on values has left
            clipping.limit(rows)
            self._sum_squares(plan, _Adjust(divisor, clipping.clipvalue, None), are_summed=are_summed)
        else:
            self._sum_squares(plan, _Adjust(divisor, None, None), are_summed=are_summed)
        squares = squares_of(rows, gradients)
        for k in gradients.dense:
            squares[k] = tree_sum(self._squares[first[k] : first[k + 1]])
        if inspection is not None and not inspection(squares):
            return None
        if not clipping.needs_norms:
            clipping.limit(rows)
            return _Adjust(None, clipping.clipvalue, None)
        factors = clipping.factors(squares, gradients.entries)
        for buffer in rows:
            factors(buffer)
        return _Adjust(None, None, factors)

    def _update(self, plan: SpanPlan, adjust: _Adjust, update_block: _BlockUpdate) -> None:
        for held in plan.own if self._is_shared else plan.all:
            for block in held.runs if adjust.is_idle else held.blocks:
                total = block.total
                if not adjust.is_idle:  # the other replicas read it too
                    total = self._scratch[block.dtype][: total.size]
                    np.copyto(total, block.total)
                    adjust(total, block)
                update_block(total, block)


@dataclass
class _Adjust:
    """What is done to the elements of a sum before the update."""

    divisor: float | None
    clipvalue: float | None
    factors: Factors | None

    @property
    def is_idle(self) -> bool:
        has_factors = self.factors is not None and not self.factors.is_one
        return not (self.divisor or has_factors) and self.clipvalue is None

    def __call__(self, total: Array, block: Block) -> None:
        if self.divisor is not None:
            divide(total, block.spans, self.divisor)
        if self.clipvalue is not None:
            clip(total, block.spans, self.clipvalue)
        if self.factors is not None:
            self.factors((total, block.spans, block.entries))


class _BlockUpdate:
    """One step's update of blocks by the optimizer's rule."""

    def __init__(self, optimizer: BaseOptimizer) -> None:
        self._optimizer = optimizer
        self._calls: dict[tuple[FlatBuffer, int], tuple[Rule, list[Array], Sequence[float]]] = {}

    def __call__(self, total: Array, block: Block) -> None:
        for home, variant, table in block.updates:
            if (home, variant) not in self._calls:
                scalars = self._optimizer._step_scalars(block.dtype)
                self._calls[home, variant] = self._optimizer._call(home, variant, scalars)
            rule, slots, scalars = self._calls[home, variant]
            update(rule, home.flat, total, slots, scalars, table)
