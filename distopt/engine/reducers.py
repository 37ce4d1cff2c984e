"""The ways that a step can take: the sum whole in each replica's slab, or block by block in the node's memory."""

from __future__ import annotations

from typing import Protocol

from distopt.aggregators.aggregator import FlatAggregator
from distopt.arrays import Array
from distopt.distribute.agreement.communicator import Communicator
from distopt.engine.agreement import Agreed
from distopt.engine.call import StepCall
from distopt.engine.plan import Plan
from distopt.engine.state.inspection import Ranges
from distopt.engine.state.options import StepOptions
from distopt.engine.sweep.blocks import Blocks
from distopt.engine.sweep.rescaling import Rescaling
from distopt.engine.sweep.whole import UserHook, Whole
from distopt.slabs.gradients import Gradients


class Reducer(Protocol):
    """A way to do stages 4 to 6; the verbs are called in this order."""

    @property
    def overwritten(self) -> Ranges | None:
        """The parts of this replica's slab that sums overwrite; None: all of it."""

    @property
    def rows_travel_by(self) -> Communicator | None:
        """Return the communicator that gathers the rows of sparse gradients; None: they are not gathered."""

    @property
    def rescaling(self) -> Rescaling | None:
        """Return what divides the sums, rows too, and limits them; None leaves them as they are."""

    def collect(self) -> None:
        """Bring together what the sum needs: messages, waiting, a user's aggregator."""

    def measure(self) -> Array | None:
        """Form the sums and divide them; return the squares of every variable's gradient, where somebody looks."""

    def update(self) -> None:
        """Limit and transform the sums, and update from them: the first thing that writes."""

    def publish(self) -> None:
        """Bring what was updated to whoever has not updated it himself."""

    def finish(self) -> None:
        """Wait until nobody needs anything of this step any more."""


def choose_reducer(call: StepCall, plan: Plan | None, gradients: Gradients, agreed: Agreed) -> Reducer:
    """Return the way that this step takes.

    Args:
        call: the step.
        plan: of its list; None where nothing is communicated.
        gradients: what takes part.
        agreed: on what.
    """
    family, options, looks = call.family, call.engine.options, call.looks
    divisor = call.engine.training.divisor(agreed.items)
    sums_wide = bool(gradients.slab.wide) and _sums_wide(plan, options, gradients, divides=divisor is not None)
    rescales = not options.is_plain or looks or divisor is not None or sums_wide  # a hook may still set a limit
    rescaling = Rescaling(options.limits, divisor, looks=looks, sums_wide=sums_wide) if rescales else None
    if plan is None:
        return Whole(options, family, gradients, rescaling, None)
    if not isinstance(options.aggregator, FlatAggregator | None):
        return Whole(options, family, gradients, rescaling, UserHook())
    memory = plan.memory
    if memory is None or not options.sums_flat:
        return Whole(options, family, gradients, rescaling, plan.reductions)
    is_plain = options.is_plain and family.updates_flat and not gradients.listing.has_duplicates
    if (call.observers is not None or not is_plain) and call.needs_whole_sum(gradients.listing) is not None:
        return Whole(options, family, gradients, rescaling, memory)
    # Nothing may have been written since the header; without one nobody knows whether the others have written yet.
    slabs_are_final = call.has_header and agreed.kinds is gradients.kinds and gradients.stream is None
    return Blocks(memory, family, gradients, rescaling, slabs_are_final=slabs_are_final)


def _sums_wide(plan: Plan | None, options: StepOptions, gradients: Gradients, *, divides: bool) -> bool:
    """Return whether sums of 16 bits must be divided, or rounded, after they are formed; a hook rounds its own."""
    if plan is None:
        return gradients.lie_wide
    is_hook = not isinstance(options.aggregator, FlatAggregator | None)
    return not is_hook and (divides or gradients.lie_wide or gradients.are_summed)
