"""A step where replicas share memory: they sum, limit and update block by block, each its own part.

*Replicated*: the owner of a part sums it, in its slab; every replica updates all of its parameters from the owners'
slabs. *Shared*: the owner also updates its part, for the whole node. A block stays in the cache, so that without norms
memory is read and written once. Norms need all sums first: two sweeps then.
"""

from __future__ import annotations

import numpy as np

from distopt.arrays import Array
from distopt.engine.state.family import Family, RuleCall
from distopt.engine.state.inspection import Ranges
from distopt.engine.sweep.node_memory import NodeMemory
from distopt.engine.sweep.partition import Block
from distopt.engine.sweep.rescaling import Rescaling
from distopt.kernels import add_tree, square_sums, tree_sum, update
from distopt.memory.flat_buffer import FlatBuffer
from distopt.process.moments import Moment
from distopt.process.observers import observe
from distopt.slabs.gradients import Gradients
from distopt.transformers import Buffer, squares_of


class Blocks:
    """The sums of one step, by owner, in the memory of the node.

    Args:
        memory: the slabs of the node's replicas.
        family: whose rule updates.
        gradients: what takes part; the slab is overwritten.
        rescaling: what is done to the sums.
        is_settled: whether every replica's slab is as it will be summed: the header came after the last writing.
    """

    def __init__(
        self, memory: NodeMemory, family: Family, gradients: Gradients, rescaling: Rescaling, *, is_settled: bool
    ) -> None:
        self._memory, self._family, self._gradients, self._rescaling = memory, family, gradients, rescaling
        self._plan, self._is_settled = memory.plan(gradients.dense), is_settled
        self._after_norms = rescaling.needs_every_sum
        can_sum_late = memory.node.is_whole_job and not gradients.are_summed
        self._in_one_sweep = can_sum_late and memory.is_shared and not self._after_norms
        """Whether a block is summed, limited and updated in one go."""
        self._sums_by_block = can_sum_late and (self._in_one_sweep or self._after_norms)
        """Whether a block is summed where it is worked on, while it stays in the cache."""
        self._rows: list[Buffer] = []
        self.rows_travel_by = memory.node.communicator

    @property
    def overwritten(self) -> Ranges:
        """The parts of this replica's slab where sums come to lie."""
        return self._plan.overwritten(self._memory.node.place)

    def collect(self) -> None:
        """Wait until every replica's gradients lie there; where sums need messages, make them."""
        if self._gradients.stream is not None:
            self._gradients.stream.wait()
        if not self._is_settled:
            self._memory.node.barrier()
        if not self._sums_by_block and not self._gradients.are_summed:
            self._plan.sum()

    def measure(self) -> Array | None:
        """Sum what could not be summed before, and bring it where it is updated from.

        Returns:
            The sum of squares of every variable's gradient, where somebody wants it.
        """
        self._rows = self._rescaling.row_buffers(self._gradients)
        if self._in_one_sweep:
            return None
        if self._after_norms:
            self._square()
            observe(Moment.SQUARES)
        if not self._memory.is_shared:
            self._plan.publish(as_summed=not self._after_norms or self._rescaling.is_idle_before)
        self._memory.node.barrier()
        return self._squares() if self._after_norms else None

    def _square(self) -> None:
        """Do what comes before the norms, and put the block sums of squares where all replicas find them."""
        for held in self._plan.own:
            for block in held.blocks:
                if self._sums_by_block:
                    observe(Moment.SUM)
                    add_tree(block.rows, block.total)
                self._rescaling.before(block.buffer)
                spans, places = block.norm_blocks
                self._memory.squares[places] = square_sums(block.total, spans)
        observe(Moment.SQUARES)
        self._plan.publish_squares(self._memory.squares)

    def _squares(self) -> Array:
        squares, first = squares_of(self._rows, self._gradients), self._memory.slab.first_norm_block
        for k in self._gradients.dense:
            squares[k] = tree_sum(self._memory.squares[first[k] : first[k + 1]])
        self._rescaling.set_factors(squares, self._gradients.entries)
        return squares

    def update(self) -> None:
        """Update the parameters: all, or where they are the node's, this replica's part."""
        for rows in self._rows:
            self._rescaling.after(rows)
        calls: dict[tuple[FlatBuffer, int], RuleCall] = {}
        for held in self._plan.own if self._memory.is_shared else self._plan.all:
            for block in held.runs if self._takes_runs else held.blocks:
                total = self._total(block)
                for home, variant, table in block.updates:
                    if (home, variant) not in calls:
                        calls[home, variant] = self._family.rule_call(home, variant)
                    rule, slots, scalars = calls[home, variant]
                    observe(Moment.UPDATE)
                    update(rule, home.flat, total, slots, scalars, table)
        self._family.update(self._gradients, dense_done=True)
        observe(Moment.ALL_UPDATED)

    @property
    def _takes_runs(self) -> bool:
        """Whether sums are used where they lie: no block has to stay in the cache."""
        is_idle = self._rescaling.is_idle_after and (self._after_norms or self._rescaling.is_idle_before)
        return is_idle and not self._in_one_sweep

    def _total(self, block: Block) -> Array:
        """Return the sum of a block as the update takes it."""
        if self._takes_runs:
            return block.total
        total = self._memory.scratch[block.dtype][: block.total.size]
        if self._in_one_sweep:
            observe(Moment.SUM)
            add_tree(block.rows, total)
        else:
            np.copyto(total, block.total)  # the other replicas read it too
        buffer = total, block.spans, block.entries
        if not self._after_norms:
            self._rescaling.before(buffer)
        self._rescaling.after(buffer)
        return total

    def publish(self) -> None:
        """Bring updated parameters to the other nodes."""
        if self._memory.is_shared:
            self._plan.publish_parameters()

    def leave(self) -> None:
        """Wait until the node's replicas have done their part: they read sums, or write parameters, of this one."""
        self._memory.node.barrier()
