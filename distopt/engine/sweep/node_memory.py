"""The memory in which replicas of a node read each other's gradients: the slab of each, mapped by all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distopt.distribute.node.node import Node
from distopt.engine.state.options import StepOptions
from distopt.engine.sweep.partition import BLOCK
from distopt.engine.sweep.rescaling import Rescaling
from distopt.engine.sweep.span_plan import Memories, SpanPlan
from distopt.memory.layout import SPAN_UNIT
from distopt.slabs.gradients import Gradients
from distopt.slabs.slab import Slab

DType = np.dtype[Any]

_PLANS = 64
"""Plans for so many sets of entries are kept."""


class NodeMemory:
    """One slab of every replica of a node, and the plans for sums over them; the replicas make it together.

    Args:
        node: this replica's node.
        slab: its gradients.
        is_shared: whether parameters and slots are the node's.
        wire: dtype of what travels between nodes; None is float32 or wider.

    Raises:
        NoSharedMemoryError: the slabs can't be shared.
    """

    def __init__(self, node: Node, slab: Slab, *, is_shared: bool, wire: DType | None) -> None:
        self.node, self.slab, self.is_shared, self._wire = node, slab, is_shared, wire
        self.communicator = node.communicator
        memories = list(map(slab.of_another, node.share(slab.segment)))
        memories[node.index_on_node] = slab.flats, slab.squares, slab.wide
        self.memories = Memories(
            {dtype: [flats[dtype] for flats, _, _ in memories] for dtype in slab.flats},
            {dtype: [wide[dtype] for _, _, wide in memories] for dtype in slab.wide},
        )
        """The buffers of the node's replicas."""
        self.squares = memories[0][1]
        """The block sums of squares, in one table for the node."""
        self.scratch = {dtype: np.empty(BLOCK + SPAN_UNIT, dtype) for dtype in slab.flats}
        """Memory for one block that others must not see."""
        self.wide_scratch = np.empty(BLOCK + SPAN_UNIT if slab.wide else 0, np.float32)
        """The same for the sum of a block of 16 bits."""
        self._plans: dict[bytes, SpanPlan] = {}
        self.everything: SpanPlan | None = None
        """The plan for the whole list, once it was asked for."""

    def plan(self, entries: Sequence[int]) -> SpanPlan:
        """Return what a step over these entries consists of."""
        if entries is self.slab.all_entries:
            if self.everything is None:
                self.everything = SpanPlan(self.node, self.slab, self.memories, entries, self._wire)
            return self.everything
        key = np.asarray(entries, np.int64).tobytes()
        if key not in self._plans:
            if len(self._plans) > _PLANS:
                self._plans.clear()
            self._plans[key] = SpanPlan(self.node, self.slab, self.memories, entries, self._wire)
        return self._plans[key]

    def sums(self, node: Node, entries: Sequence[int]) -> Sequence[Callable[[], None]]:
        """Return the sums of some entries, for the communication thread; sums of 16 bits stay in float32.

        Args:
            node: the same replicas, over the thread's communicator.
            entries: which.
        """
        return SpanPlan(node, self.slab, self.memories, entries, self._wire).wide_sums(of_wide=False)

    def sum_whole(self, options: StepOptions, gradients: Gradients, rescaling: Rescaling | None) -> None:
        """Sum the dense gradients, each owner its part, and copy what others own into this replica's slab."""
        if gradients.stream is not None:
            gradients.stream.wait()
        self.node.barrier()
        plan = self.plan(gradients.dense)
        if rescaling is not None and rescaling.sums_wide:
            self.sum_wide(plan, gradients, rescaling)
        elif gradients.stream is None:
            for total in plan.sums:
                total()
        plan.publish(as_summed=True)
        self.node.barrier()
        plan.copy_totals(self.node.index_on_node)
        gradients.note_narrow()
        self.node.barrier()

    def sum_wide(self, plan: SpanPlan, gradients: Gradients, rescaling: Rescaling) -> None:
        """Bring the sums of what this replica owns into its slab; those of 16 bits are divided before they are rounded.

        Args:
            plan: what it owns.
            gradients: what takes part; with a stream the sums are formed.
            rescaling: what divides.
        """
        if gradients.stream is None:
            for total in plan.wide_sums(of_wide=gradients.lie_wide):
                total()
        for wide, flat in plan.wide_totals():
            rescaling.narrow(wide, flat)
