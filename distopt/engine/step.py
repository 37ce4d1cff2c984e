"""THE STEP. What ``apply_gradients`` does, in the order in which it happens, for both families and all modes.

====  ===============================================================  ===============================================
 #    stage                                                            where
====  ===============================================================  ===============================================
 1    read the list: shapes, dtypes, sparse with constraint; a stream  ``slabs.read_gradients``, ``streamed_step``
      has read its gradients when they came
 2    the first time for this list: agree on it, and start from        ``plan_setup``
      replica 0's values; add up a micro-step, which ends here;        ``state.training_state``
      evaluate hyperparameters, once                                   the family
 3    header: agree on the call, on which gradients exist, on the      ``agreement``
      items; every k steps on parameters and slots                     ``state.divergence``
 4    aggregate: the user's ``gradient_aggregator``, else the sum;     ``sweep.whole`` or ``sweep.blocks``
      gather sparse rows;                                              ``slabs.rows``
      divide sums and rows by the items and the loss scale;            ``sweep.rescaling``
      merge equal rows;                                                ``slabs.rows``
      where asked for, look whether the sum is finite                  ``state.inspection``
 5    clipvalue, clipnorm, global_clipnorm,                            ``sweep.rescaling``
      then transformers                                                ``sweep.whole``
 6    update, dense or sparse; constraints                             the family, with ``kernels``
 7    ``iterations += 1``                                              ``state.training_state``
====  ===============================================================  ===============================================

The header is the commit point: what can be checked is checked before it, and a failure before it changes nothing. A
failure after it leaves the optimizer marked as damaged. ``experimental_aggregate_gradients=False`` communicates
nothing: it has no header, and takes this replica's gradients for the sum.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

from distopt.engine.agreement import agree_on_step
from distopt.engine.call import StepCall
from distopt.engine.plan_setup import set_up_plan, share_new_slots
from distopt.engine.reducers import Reducer, choose_reducer
from distopt.engine.state.options import StepOptions
from distopt.engine.step_observers import StepObservers
from distopt.engine.verdicts import choose_verdict
from distopt.errors import NonFiniteGradientError, ReplicaLostError
from distopt.memory.storage import note_writes
from distopt.process.moments import Moment, StopAtMoment
from distopt.process.trouble import note_broken_step
from distopt.slabs.gradients import Gradients
from distopt.slabs.read_gradients import check_items
from distopt.slabs.rows import gather_rows, merge_rows


def do_step(call: StepCall, read: Callable[[], Gradients], items: Any) -> None:
    """Do one step.

    Args:
        call: who steps, among whom.
        read: returns this replica's gradients.
        items: of this replica's summed loss, as the user gave them; None where the loss is averaged.
    """
    family, engine, training = call.family, call.engine, call.engine.training
    try:
        gradients = read()  # 1
        plan = engine.plans.get((gradients.slab, call.communicator)) or set_up_plan(call, gradients.listing)  # 2
        family.check(gradients)
        gradients.items = _checked(items, call)
        if training.accumulation is not None and not training.accumulate(gradients):
            return
        numbers = family.hyperparameters(gradients.listing)
    except Exception as error:
        call.offer(error)  # in place of the header, where the others wait
        raise

    agreed = agree_on_step(call, plan, gradients, numbers)  # 3
    if not gradients.listing.entries:
        return
    if missing := gradients.take_part(agreed.kinds):
        family.missing(missing, everything=not gradients.entries)

    observers = None if call.observers is None else StepObservers.of(call, gradients, agreed)
    with Writing(call, gradients) as writing:
        _make_state(call, gradients, observers)
        reducer = choose_reducer(call, plan, gradients, agreed)
        verdict = choose_verdict(call, gradients, reducer) if call.looks or training.skips_nonfinite else None
        reducer.collect()  # 4
        if gradients.sparse:
            _collect_rows(gradients, reducer, engine.options)
        squares = reducer.measure()
        if observers:
            observers.tell(Moment.SUMS)
        if verdict is not None and not verdict.accepts(squares):
            _skip(call, verdict.found)
            return
        writing.begin()
        reducer.update()  # 5, 6
        training.count()  # 7
        writing.publish(reducer)
        if call.shares:
            engine.state_check.record_if_due(call.aggregating_strategy, gradients.listing)
        reducer.finish()
        if observers:
            observers.tell(Moment.UPDATED, None if verdict is None else verdict.norm)


class Writing:
    """The part of a step that writes: mark the optimizer as damaged where a failure leaves the step half done.

    A verdict on the sum changes nothing. The loss of another replica leaves this one's state good as long as nothing is
    written, and where all of its state is its own: an update of its own is complete before it waits for others again.

    Args:
        call: the step.
        gradients: what takes part.
    """

    def __init__(self, call: StepCall, gradients: Gradients) -> None:
        self._call, self._gradients = call, gradients
        self._has_begun = False
        self._outer = call.replica.of_thread.updating

    def __enter__(self) -> Writing:
        return self

    def begin(self) -> None:
        """Note that parameters are written from now on: open tapes must not mix old and new values."""
        slab, entries = self._gradients.slab, self._gradients.entries
        self._has_begun = True
        self._call.replica.of_thread.updating = self._call
        note_writes(slab.storages if entries is slab.all_entries else [slab.storages[k] for k in entries])

    def publish(self, reducer: Reducer) -> None:
        """Publish what was updated; where another optimizer's update makes this step, all replicas do so alike."""
        if self._outer is None:
            reducer.publish()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.replica.of_thread.updating = self._outer
        if error is None or isinstance(error, NonFiniteGradientError | StopAtMoment):
            return
        if isinstance(error, ReplicaLostError) and not (self._has_begun and self._call.shares):
            return
        note_broken_step(error)
        self._call.engine.training.note_damage(error)
        if self._call.communicator is not None:
            self._call.communicator.break_off(error)


def _skip(call: StepCall, found: str) -> None:
    """Leave a step out; where that has become hopeless, say so once, on one replica."""
    told = call.engine.training.skip(found)
    if told is not None and (call.strategy is None or call.strategy.replica_index == 0):
        warnings.warn(told, stacklevel=5)


def _checked(items: Any, call: StepCall) -> float | None:
    """Return ``items`` as a number, where there can be any."""
    thread = call.replica.of_thread
    averaged_loss, thread.averaged_loss = thread.averaged_loss, None
    return None if items is None else check_items(items, call.strategy is not None, averaged_loss)


def _make_state(call: StepCall, gradients: Gradients, observers: StepObservers | None) -> None:
    """Make the slots that this step needs; in shared mode they become those of the node (collective)."""
    if observers:
        observers.tell(Moment.STATE)
    call.family.create_state(gradients)
    if call.shares:
        share_new_slots(call, gradients.slab)
    if observers:
        observers.tell(Moment.AGREED)
        observers.tell(Moment.GRADIENTS)


def _collect_rows(gradients: Gradients, reducer: Reducer, options: StepOptions) -> None:
    """Gather the rows of sparse gradients, divide them, and merge equal ones where limits and hooks shall see sums."""
    communicator = reducer.rows_travel_by
    if communicator is not None and communicator.size > 1:
        if options.hides_rows:
            merge_rows(gradients, may_round=False)
        gather_rows(communicator, gradients)
    if reducer.rescaling is not None:
        reducer.rescaling.divide_rows(gradients, keep_wide=options.merges_rows or not options.on_sum)
    if options.merges_rows:
        merge_rows(gradients)
