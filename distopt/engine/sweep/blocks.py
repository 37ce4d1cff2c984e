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
from distopt.norms import Buffer, shrunk, squares_of
from distopt.process.moments import ACTIVE, Moment
from distopt.process.observers import observe
from distopt.slabs.gradients import Gradients


class Blocks:
    """The sums of one step, by owner, in the memory of the node.

    Args:
        memory: the slabs of the node's replicas.
        family: whose rule updates.
        gradients: what takes part; the slab is overwritten.
        rescaling: what is done to the sums; None leaves them as they are.
        slabs_are_final: whether every replica's slab is as it will be summed: the header came after the last writing.
    """

    def __init__(
        self,
        memory: NodeMemory,
        family: Family,
        gradients: Gradients,
        rescaling: Rescaling | None,
        *,
        slabs_are_final: bool,
    ) -> None:
        self._memory, self._family, self._gradients, self.rescaling = memory, family, gradients, rescaling
        self._node, self._slabs_are_final = memory.node, slabs_are_final
        self.rows_travel_by = memory.communicator
        is_everything = gradients.entries is memory.slab.all_entries and not gradients.sparse
        self._plan = (memory.everything if is_everything else None) or memory.plan(gradients.dense)
        self._after_norms = rescaling is not None and rescaling.needs_every_sum
        can_sum_late = self._node.is_whole_job and gradients.stream is None
        self._in_one_sweep = can_sum_late and memory.is_shared and not self._after_norms
        """True where a block is summed, limited and updated in one go."""
        self._sums_by_block = can_sum_late and (self._in_one_sweep or self._after_norms)
        """True where a block is summed where it is worked on, while it stays in the cache."""
        self._rows: list[Buffer] = []

    @property
    def overwritten(self) -> Ranges:
        """The parts of this replica's slab where sums come to lie."""
        return self._plan.overwritten(self._node.index_on_node)

    def collect(self) -> None:
        """Wait until every replica's gradients lie there; where sums need messages, make them."""
        stream = self._gradients.stream
        if stream is not None:
            stream.wait()
        if not self._slabs_are_final:
            self._node.barrier()
        if self.rescaling is not None and self.rescaling.sums_wide:
            if not self._sums_by_block:
                self._memory.sum_wide(self._plan, self._gradients, self.rescaling)
        elif not self._sums_by_block and stream is None:
            for total in self._plan.sums:
                total()

    def measure(self) -> Array | None:
        """Sum what could not be summed before, and bring it where it is updated from.

        Returns:
            The sum of squares of every variable's gradient, where somebody wants it.
        """
        rescaling, squares = self.rescaling, None
        if rescaling is not None:
            self._rows = rescaling.row_buffers(self._gradients)
        if self._in_one_sweep:
            return None
        if rescaling is not None and self._after_norms:
            self._square(rescaling)
        if not self._memory.is_shared and not self._node.is_whole_job:
            is_as_summed = rescaling is None or not self._after_norms or rescaling.is_idle_before
            self._plan.publish(as_summed=is_as_summed)
        self._node.barrier()
        if rescaling is not None and self._after_norms:
            squares = self._squares(rescaling)
        return squares

    def _square(self, rescaling: Rescaling) -> None:
        """Do what comes before the norms, and put the block sums of squares where all replicas find them."""
        for owned_part in self._plan.owned_parts:
            for block in owned_part.blocks:
                if self._sums_by_block:
                    if ACTIVE:
                        observe(Moment.SUM)
                    self._sum(block, block.total)
                rescaling.before(block.buffer)
                spans, indices = block.norm_blocks
                self._memory.squares[indices] = square_sums(block.total, spans)
        if ACTIVE:
            observe(Moment.SQUARES)
        self._plan.publish_squares(self._memory.squares)

    def _squares(self, rescaling: Rescaling) -> Array:
        squares = self._read_squares(shrinks=False)
        rescaling.set_factors(squares, self._gradients.entries, self._shrunk_squares)
        if ACTIVE:
            observe(Moment.SQUARES)
        return squares

    def _shrunk_squares(self) -> Array:
        """Measure the sums again, times a power of two: squares of some have overflowed."""
        self._node.barrier()  # everybody has read the first ones
        for owned_part in self._plan.owned_parts:
            for block in owned_part.blocks:
                spans, indices = block.norm_blocks
                self._memory.squares[indices] = square_sums(shrunk(block.total), spans)
        self._plan.publish_squares(self._memory.squares)
        self._node.barrier()
        return self._read_squares(shrinks=True)

    def _read_squares(self, *, shrinks: bool) -> Array:
        """Return the sum of squares of every gradient, of dense ones by the block sums of all owners."""
        squares = squares_of(self._rows, self._gradients, shrinks=shrinks)
        first = self._memory.slab.first_norm_block
        for k in self._gradients.dense:
            squares[k] = tree_sum(self._memory.squares[first[k] : first[k + 1]])
        return squares

    def update(self) -> None:
        """Update the parameters: all, or where they are the node's, this replica's part."""
        rescaling = self.rescaling
        if rescaling is not None:
            for rows in self._rows:
                rescaling.after(rows)
        is_idle = rescaling is None or (rescaling.is_idle_after and (self._after_norms or rescaling.is_idle_before))
        uses_sums = is_idle and not self._in_one_sweep
        calls: dict[tuple[FlatBuffer, int], RuleCall] = {}
        for owned_part in self._plan.owned_parts if self._memory.is_shared else self._plan.all_parts:
            for block in owned_part.runs if uses_sums else owned_part.blocks:
                total = block.total if uses_sums else self._limited(block, rescaling)
                for buffer, variant, table in block.updates:
                    call = calls.get((buffer, variant))
                    if call is None:
                        call = calls[buffer, variant] = self._family.rule_call(buffer, variant)
                    if ACTIVE:
                        observe(Moment.UPDATE)
                    update(call[0], buffer.flat, total, call[1], call[2], table)
        self._family.update(self._gradients, dense_done=True)
        if ACTIVE:
            observe(Moment.ALL_UPDATED)

    def _limited(self, block: Block, rescaling: Rescaling | None) -> Array:
        """Return the sum of a block as the update takes it, in memory that nobody else sees."""
        total = self._memory.scratch[block.dtype][: block.total.size]
        if self._in_one_sweep:
            if ACTIVE:
                observe(Moment.SUM)
            self._sum(block, total)
        else:
            np.copyto(total, block.total)  # the other replicas read it too
        if rescaling is not None:
            buffer = total, block.spans, block.entries
            if not self._after_norms:
                rescaling.before(buffer)
            rescaling.after(buffer)
        return total

    def _sum(self, block: Block, total: Array) -> None:
        """Put the sum of a block into ``total``."""
        rescaling, wide = self.rescaling, self._memory.memories.wide.get(block.dtype)
        if rescaling is None or wide is None or not rescaling.sums_wide:
            add_tree(block.rows, total)
            return
        lie_wide = self._gradients.lie_wide
        rows = [flat[block.begin : block.end] for flat in wide] if lie_wide else block.rows
        scratch = self._memory.wide_scratch[: total.size]
        add_tree(rows, scratch)
        rescaling.narrow(scratch, total)

    def publish(self) -> None:
        """Bring updated parameters to the other nodes."""
        if self._memory.is_shared:
            self._plan.publish_parameters()

    def finish(self) -> None:
        """Wait until the node's replicas have done their part: they read sums, or write parameters, of this one."""
        self._node.barrier()
