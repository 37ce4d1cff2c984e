"""A step whose gradients come one by one, as a backward pass delivers them.

``begin_step`` agrees on the step (the opening record), ``push`` takes a gradient, ``end_step`` agrees on what exists,
on items and on failures (the closing record, the commit point) and does the rest of the step. Meanwhile a
communication thread sums (``streaming.buckets``); where it could not help, or replicas share no memory, or a hook makes
the sum, or a replica calls from an exit handler, that waits for ``end_step``. The bits are those of
``apply_gradients``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from distopt.distribute.agreement.header import Brought, Flag, agree, telling_the_others
from distopt.engine.call import StepCall
from distopt.engine.plan import Plan
from distopt.engine.plan_setup import set_up_plan
from distopt.engine.step import do_step
from distopt.engine.streaming.buckets import BucketSums, cut_into_buckets
from distopt.engine.sweep.shared_mode import check_sharing
from distopt.errors import InvalidArgumentError
from distopt.process.exiting import is_exiting
from distopt.process.moments import Moment
from distopt.process.observers import observed_gradient
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import ABSENT, DENSE, SPARSE, Listing
from distopt.slabs.read_gradients import check_variable, read_gradient
from distopt.slabs.slab import Slab
from distopt.variables.variable import Variable


class StreamedStep:
    """One step between ``begin_step`` and ``end_step``.

    Args:
        call: who steps, among whom.
        listing_of: returns a list as part of a slab.
        variables: the variables that gradients may come for, in about the order in which they will.
    """

    def __init__(
        self, call: StepCall, listing_of: Callable[[list[Variable]], Listing], variables: Sequence[Variable]
    ) -> None:
        self._call = call
        with telling_the_others(call.communicator):
            if not variables:
                raise InvalidArgumentError("begin_step: no variables are known; pass the list of them the first time")
            listing = listing_of(list(variables))
            check_sharing(call.aggregating_strategy, listing, call.needs_whole_sum(listing))
            if listing.has_duplicates:
                raise InvalidArgumentError("begin_step: a variable stands twice in the list; give each once")
        self._may_have_thread = not is_exiting()
        self._plan = self._opened(listing)
        self._gradients = Gradients(listing, communicates=True)
        self._buckets = _buckets(call, self._plan, listing) if self._may_have_thread else None
        if self._buckets is not None:
            self._buckets.begin(listing.entries)
            self._gradients.stream = self._buckets

    def _opened(self, listing: Listing) -> Plan:
        """Agree on the step, and return the plan of its list."""
        call, engine = self._call, self._call.engine
        communicator, accumulation = call.aggregating_strategy.communicator, engine.training.accumulation
        if call.has_header and (accumulation is None or accumulation.is_last(engine.training.iterations)):
            plan = engine.plans.get((listing.slab, communicator)) or Plan(listing.slab, communicator)
            flags = 0 if self._may_have_thread else Flag.EXITING
            brought = Brought(plan.call_digest(listing, call.optimizer_description), flags=flags)
            agreement = agree(communicator, call.header(listing, "begin_step"), brought)
            self._may_have_thread = not any(flags & Flag.EXITING for flags in agreement.flags)
        opened = set_up_plan(call, listing)
        assert opened is not None
        return opened

    def push(self, variable: Variable, gradient: Any) -> None:
        """Take one gradient; None says that there is none."""
        listing, kinds = self._gradients.listing, self._gradients.kinds
        with telling_the_others(self._call.communicator):
            entry = listing.entry_of.get(id(variable))
            if entry is None or kinds[entry]:
                check_variable(variable)
                why = "was pushed before in this step" if entry is not None else "is none of this step's variables"
                raise InvalidArgumentError(f"push: {variable.name!r} {why}: push each variable of begin_step once")
            gradient = observed_gradient(gradient, variable)
            read_gradient(gradient, self._gradients, entry, casts=self._call.engine.options.casts)
        if self._buckets is not None and kinds[entry]:
            if kinds[entry] == SPARSE:  # where another replica's is dense, the sum is dense
                listing.slab.views[entry][...] = self._gradients.sparse[entry].to_dense()
            self._buckets.note(entry)

    def end(self, items: float | None) -> None:
        """Agree on the step and do the rest of it."""
        if self._buckets is not None:
            for entry, kind in enumerate(self._gradients.kinds):
                if kind == ABSENT:
                    self._gradients.slab.views[entry][...] = 0
                    self._buckets.note(entry)
        do_step(self._call, self._gradients_as_they_came, items)

    def _gradients_as_they_came(self) -> Gradients:
        return self._gradients

    @property
    def sums_meanwhile(self) -> bool:
        """Return whether gradients are summed while they come."""
        return self._buckets is not None

    @property
    def slab(self) -> Slab:
        """The memory of its gradients."""
        return self._gradients.slab

    @property
    def has_gradients(self) -> bool:
        """Return whether a gradient was pushed: a sum may have been made."""
        return any(kind in (DENSE, SPARSE) for kind in self._gradients.kinds)

    def abandon(self) -> None:
        """Give up: the communication thread may wait for gradients that never come."""
        if self._buckets is not None:
            self._plan.end_stream()


def _buckets(call: StepCall, plan: Plan, listing: Listing) -> BucketSums | None:
    """Return the communication thread for a list, made at its first streamed step; None where there is none."""
    options = call.engine.options
    if plan.memory is None or not options.sums_flat or call.engine.training.accumulation is not None:
        return None
    observers = call.observers
    if observers is not None and (observers.want(Moment.GRADIENTS) or observers.want(Moment.SUMS)):
        return None  # somebody wants to see this replica's own gradients, or the whole sum
    if call.looks and call.needs_whole_sum(listing) is not None:
        return None
    return plan.stream(functools.partial(cut_into_buckets, call.aggregating_strategy))
