"""A step whose gradients come one by one, as a backward pass delivers them.

``begin_step`` agrees on the step (the opening record), ``push`` takes a gradient, ``end_step`` agrees on what exists,
on items and on failures (the closing record, the commit point) and does the rest of the step. Meanwhile a
communication thread sums (``buckets``); where it could not help, or replicas share no memory, or a hook makes the
sum, that waits for ``end_step``. The bits are those of ``apply_gradients``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from distopt.distribute.agreement.header import agree, telling_the_others
from distopt.distribute.strategy import Strategy, get_strategy
from distopt.engine import step
from distopt.engine.beginning import begin_plan, plan_call
from distopt.engine.state.inspection import inspects
from distopt.engine.streaming.buckets import BucketSums, cut_into_buckets
from distopt.engine.sweep.sharing import check_sharing
from distopt.errors import InvalidArgumentError
from distopt.slabs.intake import ABSENT, SPARSE, read_gradient
from distopt.slabs.slab import Slab
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable

if TYPE_CHECKING:
    from distopt.optimizers.common.base import BaseOptimizer


class StreamedStep:
    """One step between ``begin_step`` and ``end_step``.

    Args:
        optimizer: whose step it is.
        variables: the variables that gradients may come for, in about the order in which they will.
    """

    def __init__(self, optimizer: BaseOptimizer, variables: Sequence[Variable]) -> None:
        self._optimizer, self._strategy = optimizer, get_strategy()
        self._communicator = self._strategy.ready()
        with telling_the_others(self._communicator):
            optimizer._refuse_if_unusable()
            if not variables:
                raise InvalidArgumentError("begin_step: no variables are known; pass the list of them the first time")
            slab = self._slab = optimizer._slab_for(list(variables))
            check_sharing(optimizer, self._strategy, slab, aggregates=True)
            if slab.has_duplicates:
                raise InvalidArgumentError("begin_step: a variable stands twice in the list; give each once")
        accumulation = optimizer._accumulation
        if optimizer._in_lockstep and (accumulation is None or accumulation.is_last(optimizer._iterations)):
            agree(
                self._communicator,
                plan_call(optimizer, self._communicator, slab, "begin_step"),
                call_digest=optimizer._call_digest(slab, self._communicator),
            )
        begin_plan(optimizer, self._strategy, slab)
        self._kinds = bytearray(len(slab.variables))
        self._sparse: dict[int, IndexedSlices] = {}
        self._buckets = _buckets(optimizer, self._strategy, slab)
        if self._buckets is not None:
            self._buckets.begin()

    def push(self, variable: Variable, gradient: Any) -> None:
        """Take one gradient; None says that there is none."""
        slab = self._slab
        with telling_the_others(self._communicator):
            entry = slab.entry_of.get(id(variable))
            if entry is None or self._kinds[entry]:
                why = "was pushed before in this step" if entry is not None else "is none of this step's variables"
                raise InvalidArgumentError(
                    f"push: {getattr(variable, 'name', variable)!r} {why}: push each variable of begin_step once"
                )
            casts = self._optimizer._casts_gradients
            kind = self._kinds[entry] = read_gradient(gradient, slab, entry, self._sparse, casts=casts)
        if self._buckets is not None:
            if kind == SPARSE:  # where another replica's is dense, the sum is dense
                slab.views[entry][...] = self._sparse[entry].to_dense()
            if kind:
                self._buckets.note(entry)

    def end(self, items: float | None) -> None:
        """Agree on the step and do the rest of it."""
        slab, buckets = self._slab, self._buckets
        if buckets is not None:
            for entry, kind in enumerate(self._kinds):
                if kind == ABSENT:
                    slab.views[entry][...] = 0
                    buckets.note(entry)
        wait = None if buckets is None else buckets.wait
        step.finish(
            self._optimizer, self._strategy, slab, self._kinds, self._sparse, items, name="end_step", wait_for_sums=wait
        )

    def abandon(self) -> None:
        """Give up: the communication thread may wait for gradients that never come."""
        if self._buckets is not None:
            self._slab.streams.pop(self._communicator, None)
            self._buckets.end()


def _buckets(optimizer: BaseOptimizer, strategy: Strategy, slab: Slab) -> BucketSums | None:
    """The communication thread for a slab, made at its first streamed step; None where there is none."""
    communicator = strategy.communicator
    sweep = slab.sweeps.get(communicator)
    if sweep is None or not optimizer._sums_flat or optimizer._accumulation is not None:
        return None
    if strategy.receipt is not None or (inspects(optimizer, strategy) and not sweep.does_all(optimizer, inspects=True)):
        return None  # somebody wants to see this replica's own gradients
    if communicator not in slab.streams:
        slab.streams[communicator] = cut_into_buckets(strategy, slab, sweep)
    buckets: BucketSums | None = slab.streams[communicator]
    return buckets


class Streaming:
    """The part of an optimizer that takes gradients one by one."""

    def __init__(self) -> None:
        self._streamed: StreamedStep | None = None
        self._streamed_variables: list[Variable] = []
        super().__init__()

    def begin_step(self, variables: Sequence[Variable] | None = None) -> None:
        """Begin a step whose gradients come one by one: all replicas agree on it.

        Buckets of gradients are summed by a communication thread while the backward pass goes on, where that pays. A
        step that was begun and not ended is given up.

        Args:
            variables: what gradients may come for, in about the order in which they will; None: as in the last step.

        Raises:
            CollectiveMismatchError: replicas disagree on the call (on every replica).

        Example:
            >>> import distopt
            >>> w = distopt.Variable([1.0, 2.0])
            >>> sgd = distopt.optimizers.SGD(learning_rate=1.0)
            >>> sgd.begin_step([w])
            >>> sgd.push(w, [0.5, 0.5])
            >>> int(sgd.end_step())
            1
        """
        self._give_up_step()
        if variables is not None:
            self._streamed_variables = list(variables)
        self._streamed = StreamedStep(cast("BaseOptimizer", self), self._streamed_variables)

    def push(self, variable: Variable, gradient: Any) -> None:
        """Hand over a gradient of the step that has begun.

        Args:
            variable: one of ``begin_step``'s, each at most once a step.
            gradient: as for ``apply_gradients``; its array of ``gradient_buffers`` is taken where it lies, and must not
                be written again before ``end_step`` returns.

        Raises:
            InvalidArgumentError: it does not fit (the step is given up on all replicas), or no step has begun.
        """
        streamed = self._begun("push")
        try:
            streamed.push(variable, gradient)
        except BaseException:
            self._give_up_step()
            raise

    def end_step(self, items: float | None = None) -> Variable:
        """End the step: what was not pushed on any replica is left out. Returns ``iterations``.

        Args:
            items: number of items of this replica's *summed* loss; the aggregate is divided by the sum over replicas.

        Raises:
            InvalidArgumentError: no gradient for any variable; no step has begun; gradients that are not zero with
                ``items=0`` on all replicas.
            CollectiveMismatchError: replicas disagree on the call (on every replica).
        """
        try:
            self._begun("end_step").end(items)
        except BaseException:
            self._give_up_step()
            raise
        self._streamed = None
        return cast("BaseOptimizer", self)._iterations

    def _give_up_step(self) -> None:
        """Give up a step that was begun and not ended: its sums must be over before the slab is written again."""
        streamed, self._streamed = self._streamed, None
        if streamed is not None:
            streamed.abandon()

    def _begun(self, call: str) -> StreamedStep:
        if self._streamed is None:
            raise InvalidArgumentError(f"{call}: no step has begun; call begin_step(variables) first")
        return self._streamed
