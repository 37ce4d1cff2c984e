"""A step where the sum comes to lie whole in each replica's own slab.

It serves what has to see, or to change, the whole sum: transformers, a user's aggregator, updates that are methods,
limits on norms after other limits, a variable that stands twice. And it serves replicas that share no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from distopt.aggregators.aggregator import Aggregator, FlatAggregator
from distopt.aggregators.sum import Sum
from distopt.arguments import hook_name
from distopt.arrays import Array
from distopt.distribute.agreement.communicator import Communicator
from distopt.engine.state.family import Family
from distopt.engine.state.options import StepOptions
from distopt.engine.sweep.rescaling import Rescaling
from distopt.process.moments import ACTIVE, Moment
from distopt.process.observers import observe
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import UNLISTED
from distopt.slabs.rows import merge_rows

_SUM = Sum()

_PARTS = 64
"""Reductions of so many parts of a slab are kept."""


class Source(Protocol):
    """The source of a step's sum: ``Reductions``, ``NodeMemory`` or ``UserHook``."""

    @property
    def communicator(self) -> Communicator | None:
        """Return whose rows of sparse gradients are gathered; None: the sum has all rows already."""

    def sum_whole(self, options: StepOptions, gradients: Gradients, rescaling: Rescaling | None) -> None:
        """Put the sum of the dense gradients into this replica's slab; a hook makes that of the sparse ones too.

        Args:
            options: the aggregator.
            gradients: this replica's; then the sum.
            rescaling: what divides sums of 16 bits before they are rounded.
        """


class Whole:
    """The sum of one step, as a list.

    Args:
        options: aggregator and transformers.
        family: what updates.
        gradients: what takes part; the slab is overwritten.
        rescaling: what is done to the sum; None leaves it.
        source: what the sum comes from; None: this replica's gradients are taken for it.
    """

    overwritten = None

    def __init__(
        self,
        options: StepOptions,
        family: Family,
        gradients: Gradients,
        rescaling: Rescaling | None,
        source: Source | None,
    ) -> None:
        self._options, self._family, self._gradients = options, family, gradients
        self.rescaling, self._source = rescaling, source
        self.rows_travel_by = None if source is None else source.communicator

    def collect(self) -> None:
        """Put the sum into the slab."""
        if self._source is not None:
            self._source.sum_whole(self._options, self._gradients, self.rescaling)
        elif self.rescaling is not None and self.rescaling.sums_wide:
            self.rescaling.narrow_whole(self._gradients)

    def measure(self) -> Array | None:
        """Divide; return the sum of squares of every variable's gradient, where somebody looks."""
        return None if self.rescaling is None else self.rescaling.measure(self._gradients)

    def update(self) -> None:
        """Limit, transform, update."""
        if self.rescaling is not None:
            self.rescaling.limit(self._gradients)
        for hook in self._options.on_sum:
            name = f"gradient transformer {hook_name(hook)}"
            self._gradients.replace_from_hook(hook(self._gradients.copied_pairs()), name)
        if self._options.on_sum and self._options.merges_rows:  # they may return repeated rows
            merge_rows(self._gradients)
        if ACTIVE:
            observe(Moment.UPDATE)
        self._family.update(self._gradients, dense_done=False)

    def publish(self) -> None:
        """Note that other replicas may have something else now, where nothing was summed."""
        if self._source is None:
            for variable in [*self._gradients.listing.variables, *self._family.state()]:
                variable.storage.note_difference()

    def finish(self) -> None:
        """Wait for nobody: no other replica reads what this one has."""


class UserHook:
    """The sum that a user's aggregator makes of the list."""

    communicator = None

    def sum_whole(self, options: StepOptions, gradients: Gradients, rescaling: Rescaling | None) -> None:
        """Call the hook, with gradients in their variables' dtypes."""
        gradients.narrow()
        assert options.aggregator is not None
        hook = f"gradient aggregator {hook_name(options.aggregator)}"
        # What an Aggregator is given may be overwritten in the next step; a function may keep it.
        pairs = gradients.pairs() if isinstance(options.aggregator, Aggregator) else gradients.copied_pairs()
        gradients.replace_from_hook(options.aggregator(pairs), hook)


class Reductions:
    """The prepared reductions of parts of one slab over one group of replicas: a sum that messages make."""

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self._prepared: dict[tuple[np.dtype[Any], int, int, bool], Callable[[], None]] = {}

    def sum_whole(self, options: StepOptions, gradients: Gradients, rescaling: Rescaling | None) -> None:
        """Replace the dense gradients by their aggregate."""
        aggregator = options.aggregator if isinstance(options.aggregator, FlatAggregator) else _SUM
        slab, is_wide = gradients.slab, rescaling is not None and rescaling.sums_wide
        if is_wide:
            gradients.widen()
        for dtype, begin, end in _runs(gradients):
            key = dtype, begin, end, is_wide
            if key not in self._prepared:
                if len(self._prepared) > _PARTS:
                    self._prepared.clear()
                flat = slab.wide.get(dtype, slab.flats[dtype]) if is_wide else slab.flats[dtype]
                self._prepared[key] = aggregator.prepare(self.communicator, flat[begin:end])
            self._prepared[key]()
        if rescaling is not None and is_wide:
            rescaling.narrow_whole(gradients)


def _runs(gradients: Gradients) -> Iterator[tuple[np.dtype[Any], int, int]]:
    """Return the parts of the slab that hold dense gradients: all of it, or what lies between other entries.

    What no replica has is summed with its neighbours: a part must not change with it.
    """
    slab, kinds = gradients.slab, gradients.kinds
    has_gaps = bool(gradients.sparse) or not gradients.listing.is_whole
    for dtype, flat in slab.flats.items():
        begin = 0
        for k in slab.members[dtype] if has_gaps else ():
            if k in gradients.sparse or kinds[k] == UNLISTED:
                if slab.starts[k] > begin:
                    yield dtype, begin, slab.starts[k]
                begin = slab.ends[k]
        if begin < flat.size:
            yield dtype, begin, flat.size
