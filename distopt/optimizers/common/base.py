"""The base class of both optimizer families: an engine, and the calls that reach the engine.

A family (a "face") translates names, hyperparameters, slot order and errors. The step itself is in ``engine.step``.
"""

from __future__ import annotations

import abc
import copy
import functools
from collections.abc import Iterable, Sequence
from typing import Any, Self

from distopt.arrays import Array
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import telling_the_others
from distopt.distribute.belonging import Belonging, in_own_scope
from distopt.distribute.strategy import strategy_of
from distopt.engine.call import StepCall
from distopt.engine.state.options import StepOptions
from distopt.engine.step import do_step
from distopt.engine.streamed_step import StreamedStep
from distopt.engine.sweep.shared_mode import agree_on_state, check_sharing, complete_slots
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.face import Face
from distopt.optimizers.common.limits import limit
from distopt.process.moments import ACTIVE, SKIP, Moment
from distopt.process.observers import observe
from distopt.process.replica import current_replica
from distopt.slabs.fitting import Pair
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import Listing
from distopt.slabs.read_gradients import as_variables, check_variable, own_pairs, read_gradients, refuse_buffers
from distopt.slabs.slab import Slab
from distopt.variables.variable import Variable


class BaseOptimizer(Face):
    """The common part of both families, made of the options that the user has given; not for users."""

    clipvalue = limit("clipvalue")
    clipnorm = limit("clipnorm")
    global_clipnorm = limit("global_clipnorm")

    _distopt_is_copy = False
    _distopt_belonging: Belonging | None = None

    def __init__(self, options: StepOptions) -> None:
        super().__init__(options)
        self._distopt_belonging = Belonging()
        self._distopt_streamed: StreamedStep | None = None
        self._distopt_streamed_variables: list[Variable] = []

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs, as JSON can hold them."""

    @abc.abstractmethod
    def _distopt_refuse_limit(self, name: str, value: float) -> None:
        """Raise if a limit can't be combined with the limits and hooks that are set already."""

    def _distopt_do_step(self, grads_and_vars: Iterable[Pair], *, aggregates: bool, items: float | None) -> None:
        """Do one step: ``distopt/engine/step.py`` shows it from top to bottom."""
        if (made := self._distopt_belonging) is not None and made.own is not None and not made.is_entered:
            with made.entered():
                self._distopt_do_step(grads_and_vars, aggregates=aggregates, items=items)
            return
        if ACTIVE and observe(Moment.STEP, self) is SKIP:
            return
        call = self._distopt_call_of("apply_gradients", aggregates=aggregates)
        do_step(call, functools.partial(self._distopt_read, call, grads_and_vars), items)

    def _distopt_call_of(self, name: str, *, aggregates: bool) -> StepCall:
        replica = current_replica()
        strategy = strategy_of(replica)
        aggregates = aggregates and replica.of_thread.updating is None
        communicator = strategy.ready() if aggregates else None
        if "_distopt_engine" not in self.__dict__:
            with telling_the_others(communicator):
                raise RuntimeError(f"{type(self).__name__}.__init__ did not call super().__init__(...): call it first")
        return StepCall(self._distopt_family(), self._distopt_engine, strategy if aggregates else None, replica, name)

    def _distopt_read(self, call: StepCall, grads_and_vars: Iterable[Pair]) -> Gradients:
        """Return this replica's gradients: stage 1 of a step."""
        self._distopt_refuse_if_unusable(call.replica)
        given_up = self._distopt_give_up_step()
        pairs = own_pairs(grads_and_vars, call.replica)
        if self._distopt_sees_own_gradients and call.strategy is not None:
            pairs = self._distopt_seen_before_sum(pairs)
        variables = [variable for _, variable in pairs]
        known = self._distopt_engine.listings.get((call.communicator, *map(id, variables)))
        listing = known or self._distopt_listing_of(call.communicator, variables)
        if call.shares or call.strategy is None or any(buffer.shared_by is not None for buffer in listing.buffers):
            check_sharing(call.strategy or strategy_of(call.replica), listing, call.needs_whole_sum(listing))
        if given_up is not None:
            refuse_buffers(pairs, given_up)
        gradients = Gradients(listing, communicates=call.communicator is not None)
        read_gradients(pairs, gradients, casts=self._distopt_engine.options.casts)
        return gradients

    @in_own_scope
    def gradient_buffers(self, variables: Sequence[Variable]) -> list[Array]:
        """Return one writable array per variable, to compute gradients into: they are summed without a copy.

        The arrays are views of this replica's slab. Write gradients into them, and call
        ``apply_gradients(zip(buffers, variables))`` with the same variables in the same order. You may write again when
        that call has returned; the contents are undefined then.

        Args:
            variables: the variables, in the order of the step.

        Returns:
            Arrays of the variables' shapes and dtypes.

        Example:
            >>> import distopt
            >>> w = distopt.Variable([1.0, 2.0])
            >>> sgd = distopt.optimizers.SGD(learning_rate=1.0)
            >>> (buffer,) = sgd.gradient_buffers([w])
            >>> buffer[:] = 0.5
            >>> _ = sgd.apply_gradients([(buffer, w)])
            >>> w.numpy()
            array([0.5, 1.5], dtype=float32)
        """
        listed = as_variables(variables, "gradient_buffers received")
        agreed = self._distopt_engine.find_listing(strategy_of(current_replica()).communicator, listed)
        listing = agreed or self._distopt_listing_of(None, listed)
        return [listing.slab.views[k] for k in listing.entries]

    def _distopt_listing_of(self, communicator: Communicator | None, variables: Sequence[Variable]) -> Listing:
        """Return the memory for the gradients of a list; the first call makes it and moves the variables.

        Args:
            communicator: the replicas that step the list; None means this replica alone.
            variables: the list.
        """
        listing = self._distopt_engine.find_listing(communicator, variables)
        if listing is None:
            for variable in variables:
                check_variable(variable)
            listing = self._distopt_new_listing(communicator, variables)
        return listing

    def _distopt_new_listing(self, communicator: Communicator | None, variables: Sequence[Variable]) -> Listing:
        """Move checked variables into the optimizer's memory, and make the memory for their gradients."""
        return self._distopt_engine.new_listing(communicator, variables, self._distopt_variant_of)

    def _distopt_parts(self) -> Sequence[BaseOptimizer]:
        """Return the optimizers that update and keep state: this one, or those inside it."""
        return [self]

    # Steps whose gradients come one by one

    def _distopt_refuse_streaming(self, variables: Sequence[Variable]) -> None:
        """Raise where such a step over these variables would not do what a step does."""

    @in_own_scope
    def begin_step(self, variables: Sequence[Variable] | None = None) -> None:
        """Begin a step whose gradients come one by one. All replicas agree on the step.

        Buckets of gradients are summed by a communication thread while the backward pass goes on, where that pays. A
        step that was begun and not ended is cancelled.

        Args:
            variables: the variables that may get gradients, roughly in the order in which the gradients will come; None
                means those of the last step.

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
        if ACTIVE and observe(Moment.STEP, self) is SKIP:
            return
        self._distopt_give_up_step()
        call = self._distopt_call_of("end_step", aggregates=True)
        with telling_the_others(call.communicator):
            self._distopt_refuse_if_unusable(call.replica)
            former = self._distopt_streamed_variables
            listed = former if variables is None else as_variables(variables, "begin_step received")
            self._distopt_refuse_streaming(listed)
        self._distopt_streamed = StreamedStep(
            call, functools.partial(self._distopt_listing_of, call.communicator), listed
        )
        self._distopt_streamed_variables = listed

    @in_own_scope
    def push(self, variable: Variable, gradient: Any) -> None:
        """Hand over a gradient of the step that has begun.

        Args:
            variable: one of the variables of ``begin_step``, each at most once a step.
            gradient: as for ``apply_gradients``; the variable's array of ``gradient_buffers`` is used without a copy,
                and must not be written again before ``end_step`` returns.

        Raises:
            InvalidArgumentError: the gradient does not fit (then the step fails on all replicas); no step has begun.
        """
        streamed = self._distopt_begun("push")
        try:
            streamed.push(variable, gradient)
        except BaseException:
            self._distopt_give_up_step()
            raise

    @in_own_scope
    def end_step(self, items: float | None = None) -> Variable:
        """End the step, without variables that got no gradient on any replica. Return ``iterations``.

        Args:
            items: number of items of this replica's *summed* loss; the aggregate is divided by the sum over replicas.

        Raises:
            InvalidArgumentError: no gradient for any variable; no step has begun; gradients that are not zero with
                ``items=0`` on all replicas.
            CollectiveMismatchError: replicas disagree on the call (on every replica).
        """
        try:
            self._distopt_begun("end_step").end(items)
        except BaseException:
            self._distopt_give_up_step()
            raise
        self._distopt_streamed = None
        return self._distopt_engine.training.iterations

    def cancel_step(self) -> None:
        """Cancel the step that was begun, and forget its gradients; local.

        Afterwards you may write into ``gradient_buffers`` again; until then sums may be written into them. If no step
        was begun, nothing is done.

        Example:
            >>> import distopt
            >>> w = distopt.Variable([1.0, 2.0])
            >>> sgd = distopt.optimizers.SGD(learning_rate=1.0)
            >>> sgd.begin_step([w])
            >>> sgd.push(w, [0.5, 0.5])
            >>> sgd.cancel_step()
            >>> w.numpy()
            array([1., 2.], dtype=float32)
        """
        self._distopt_give_up_step()

    @property
    def step_has_begun(self) -> bool:
        """Return whether a step was begun, and has neither ended nor been cancelled."""
        return self._distopt_streamed is not None

    @property
    def sums_meanwhile(self) -> bool:
        """Return whether the gradients of the step that has begun are summed while they come."""
        return self._distopt_streamed is not None and self._distopt_streamed.sums_meanwhile

    def _distopt_give_up_step(self) -> Slab | None:
        """Cancel a step that was begun and not ended, and wait for its sums: only then may the slab be written again.

        Returns:
            The memory of the step's gradients, if any were pushed.
        """
        if self._distopt_streamed is None:
            return None
        streamed, self._distopt_streamed = self._distopt_streamed, None
        streamed.abandon()
        return streamed.slab if streamed.has_gradients else None

    def _distopt_begun(self, call: str) -> StreamedStep:
        if self._distopt_streamed is None:
            raise InvalidArgumentError(f"{call}: no step has begun; call begin_step(variables) first")
        return self._distopt_streamed

    # State in and out

    @in_own_scope
    def _distopt_read_state(self, variables: Sequence[Variable]) -> list[Array]:
        """Return copies of the whole state, collected from the replicas where each keeps only its own part current."""
        agree_on_state(self._distopt_engine.slots, f"get_weights of {type(self).__name__}")
        complete_slots(self._distopt_engine.slots)
        return [variable.numpy() for variable in variables]

    @in_own_scope
    def _distopt_write_state(self, variables: Sequence[Variable], values: Sequence[Any]) -> None:
        """Set the state; where replicas share the state, all of them write the same values."""
        agree_on_state(self._distopt_engine.slots, f"set_weights of {type(self).__name__}", values)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self._distopt_engine.slots.node_barrier()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out memory that can be made again; a collective where each of several nodes has a part of the state."""
        slots = self._distopt_engine.slots
        if any(not node.is_whole_job for node in slots.nodes):
            agree_on_state(slots, f"copy of {type(self).__name__}")
            complete_slots(slots)
        return self.__dict__ | {"_distopt_streamed": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the state. The copy steps the same variables, or their copies if these were made before it.

        ``copy.deepcopy((variables, optimizer))`` copies both, in this order; in the other order the copied optimizer
        does not know the copies of the variables and refuses them. ``pickle`` keeps both together in any order.
        """
        known = {id(each): each for each in (*self._distopt_trained(), *self._distopt_streamed_variables)}
        kept = {key: variable for key, variable in known.items() if key not in memo}
        inner = memo | kept
        twin = memo[id(self)] = inner[id(self)] = type(self).__new__(type(self))
        twin.__setstate__(copy.deepcopy(self.__getstate__(), inner) | {"_distopt_is_copy": True})
        # Copy lists what it keeps alive under the id of its memo: another object may get that of this one.
        memo.setdefault(id(memo), []).extend(inner.pop(id(inner), ()))
        memo.update((key, value) for key, value in inner.items() if key not in kept)
        return twin
