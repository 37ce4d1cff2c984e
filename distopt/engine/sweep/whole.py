"""A step where the sum comes to lie whole in each replica's own slab.

It serves what has to see, or to change, the whole sum: transformers, a user's aggregator, updates that are methods,
limits on norms after other limits, a variable that stands twice. And it serves replicas that share no memory.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from distopt.aggregators.aggregator import FlatAggregator
from distopt.aggregators.sum import Sum
from distopt.arguments import hook_name
from distopt.arrays import Array
from distopt.distribute.agreement.communicator import Communicator
from distopt.engine.state.family import Family
from distopt.engine.state.options import StepOptions
from distopt.engine.sweep.node_memory import NodeMemory
from distopt.engine.sweep.rescaling import Rescaling
from distopt.process.moments import ACTIVE, Moment
from distopt.process.observers import observe
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import UNLISTED
from distopt.slabs.rows import merge_rows

_SUM = Sum()

_PARTS = 64
"""Reductions of so many parts of a slab are kept."""


class Reductions:
    """The prepared reductions of parts of one slab over one group of replicas."""

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self._prepared: dict[tuple[np.dtype[Any], int, int], Callable[[], None]] = {}

    def __call__(self, aggregator: FlatAggregator, gradients: Gradients) -> None:
        """Replace the dense gradients by their aggregate."""
        for dtype, begin, end in _runs(gradients):
            key = dtype, begin, end
            if key not in self._prepared:
                if len(self._prepared) > _PARTS:
                    self._prepared.clear()
                flat = gradients.slab.flats[dtype][begin:end]
                self._prepared[key] = aggregator.prepare(self.communicator, flat)
            self._prepared[key]()


class Whole(abc.ABC):
    """The sum of one step, as a list.

    Args:
        options: aggregator and transformers.
        family: what updates.
        gradients: what takes part; the slab is overwritten.
        rescaling: what is done to the sum; None leaves it.
    """

    overwritten = None
    rows_travel_by: Communicator | None = None

    def __init__(self, options: StepOptions, family: Family, gradients: Gradients, rescaling: Rescaling | None) -> None:
        self._options, self._family, self._gradients = options, family, gradients
        self.rescaling = rescaling

    @abc.abstractmethod
    def collect(self) -> None:
        """Put the sum into the slab."""

    def measure(self) -> Array | None:
        """Divide; return the sum of squares of every variable's gradient, where somebody looks."""
        return None if self.rescaling is None else self.rescaling.measure(self._gradients)

    def update(self) -> None:
        """Limit, transform, update."""
        if self.rescaling is not None:
            self.rescaling.limit(self._gradients)
        for transformer in self._options.transformers:
            hook = f"gradient transformer {hook_name(transformer)}"
            self._gradients.replace_from_hook(transformer(self._gradients.pairs()), hook)
        if self._options.transformers and self._options.merges_rows:  # they may return repeated rows
            merge_rows(self._gradients)
        if ACTIVE:
            observe(Moment.UPDATE)
        self._family.update(self._gradients, dense_done=False)

    def publish(self) -> None:  # noqa: B027 (only ``Alone`` has to tell something)
        """Do nothing: every replica has updated its own parameters."""

    def leave(self) -> None:  # noqa: B027 (a list is nobody else's)
        """Wait for nobody: no other replica reads what this one has."""


class Alone(Whole):
    """This replica's gradients, taken for the sum."""

    def collect(self) -> None:
        """Do nothing."""

    def publish(self) -> None:
        """Note that other replicas may have something else now."""
        for variable in [*self._gradients.listing.variables, *self._family.state()]:
            variable.storage.note_difference()


class WholeByHook(Whole):
    """The sum that a user's aggregator makes of the list."""

    def collect(self) -> None:
        """Call the hook."""
        aggregator = self._options.aggregator
        assert aggregator is not None
        hook = f"gradient aggregator {hook_name(aggregator)}"
        self._gradients.replace_from_hook(aggregator(self._gradients.pairs()), hook)


class WholeByMessages(Whole):
    """The sum that messages make, one for each run of dense gradients in the slab.

    Args:
        reductions: what was prepared for the slab.
        options: as in ``Whole``, like the rest.
        family: what updates.
        gradients: what takes part.
        rescaling: what is done to the sum.
    """

    def __init__(
        self,
        reductions: Reductions,
        options: StepOptions,
        family: Family,
        gradients: Gradients,
        rescaling: Rescaling | None,
    ) -> None:
        super().__init__(options, family, gradients, rescaling)
        self._reductions, self.rows_travel_by = reductions, reductions.communicator

    def collect(self) -> None:
        """Sum by messages."""
        aggregator = self._options.aggregator
        self._reductions(aggregator if isinstance(aggregator, FlatAggregator) else _SUM, self._gradients)


class WholeFromNode(Whole):
    """The sum that the replicas of a node make in their memory, copied into each slab.

    Args:
        memory: the slabs of the node's replicas.
        options: as in ``Whole``, like the rest.
        family: what updates.
        gradients: what takes part.
        rescaling: what is done to the sum.
    """

    def __init__(
        self,
        memory: NodeMemory,
        options: StepOptions,
        family: Family,
        gradients: Gradients,
        rescaling: Rescaling | None,
    ) -> None:
        super().__init__(options, family, gradients, rescaling)
        self._memory, self.rows_travel_by = memory, memory.node.communicator

    def collect(self) -> None:
        """Sum in the node's memory, and copy what others own."""
        stream, node = self._gradients.stream, self._memory.node
        if stream is not None:
            stream.wait()
        node.barrier()
        plan = self._memory.plan(self._gradients.dense)
        if stream is None:
            for total in plan.sums:
                total()
        plan.publish(as_summed=True)
        node.barrier()
        plan.copy_totals(node.place)
        node.barrier()


def _runs(gradients: Gradients) -> Iterator[tuple[np.dtype[Any], int, int]]:
    """Return the parts of the slab that hold dense gradients: all of it, or what lies between other entries.

    What no replica has is summed with its neighbours: a part must not change with it.
    """
    slab, kinds = gradients.slab, gradients.kinds
    for dtype, flat in slab.flats.items():
        begin = 0
        for k in slab.members[dtype]:
            if k in gradients.sparse or kinds[k] == UNLISTED:
                if slab.starts[k] > begin:
                    yield dtype, begin, slab.starts[k]
                begin = slab.ends[k]
        if begin < flat.size:
            yield dtype, begin, flat.size
