"""THE STEP. What ``apply_gradients`` does, in the order in which it happens, for both families and all modes.

====  ===============================================================  ===============================================
 #    stage                                                            where
====  ===============================================================  ===============================================
 1    read the list: shapes, dtypes, sparse with constraint; a stream  ``slabs.intake``, ``streamed_step``
      has read its gradients when they came
 2    the first time for this list: agree on it, and start from        ``plan_setup``
      replica 0's values; add up a micro-step, which ends here;        ``state.training_state``
      evaluate hyperparameters, once                                   the family
 3    header: agree on the call, on which gradients exist, on the      ``agreement``
      items; every k steps on parameters and slots                     ``state.divergence``
 4    aggregate: the user's ``gradient_aggregator``, else the sum;     ``sweep.whole`` or ``sweep.blocks``
      divide by the items and the loss scale;                          ``rescaling``, ``slabs.rows``
      where asked for, look whether the sum is finite                  ``state.inspection``
 5    clipvalue, clipnorm, global_clipnorm, then transformers          ``rescaling``, ``transformers``
 6    update, dense or sparse; constraints                             the family, with ``kernels``
 7    ``iterations += 1``                                              ``state.training_state``
====  ===============================================================  ===============================================

The header is the commit point: what can be checked is checked before it, and a failure before it changes nothing. A
failure after it leaves the optimizer marked as damaged. ``experimental_aggregate_gradients=False`` communicates
nothing: it has no header, and takes this replica's gradients for the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distopt.engine.agreement import Agreed, agree_on_step
from distopt.engine.call import StepCall
from distopt.engine.plan_setup import make_state, set_up_plan
from distopt.engine.reducers import choose_reducer
from distopt.engine.verdicts import choose_verdict
from distopt.engine.watch import StepWatch
from distopt.engine.writing import Writing
from distopt.process.moments import Moment
from distopt.process.replica import current_replica
from distopt.slabs.gradients import Gradients
from distopt.slabs.intake import check_items
from distopt.slabs.rows import collect_rows


def do_step(call: StepCall, read: Callable[[], Gradients], items: Any) -> None:
    """Do one step.

    Args:
        call: who steps, among whom.
        read: returns this replica's gradients.
        items: of this replica's summed loss, as the user gave them; None where the loss is averaged.
    """
    family, training = call.family, call.engine.training
    with call.telling_the_others():  # 1
        gradients = read()
    plan = set_up_plan(call, gradients.slab)  # 2
    with call.telling_the_others():
        family.check(gradients)
        gradients.items = _checked(items, call)
        if not training.accumulate(gradients):
            return
        numbers = family.hyperparameters(gradients.slab) | training.numbers()

    agreed = Agreed(gradients.kinds, gradients.items)
    if call.has_header:  # 3
        agreed = agree_on_step(call, plan, gradients, numbers)
    if not agreed.kinds:
        return
    if missing := gradients.take_part(agreed.kinds):
        family.missing(missing, everything=not gradients.entries)

    watch = StepWatch.of(call, gradients, agreed)
    with Writing(call, gradients) as writing:
        make_state(call, gradients)
        if watch is not None:
            watch.tell(Moment.GRADIENTS)
        divisor = training.divisor(agreed.items)
        reducer = choose_reducer(call, plan, gradients, divisor, is_settled=agreed.kinds is gradients.kinds)
        verdict = choose_verdict(call, gradients, reducer.overwritten)
        reducer.collect()  # 4
        collect_rows(gradients, reducer.rows_travel_by, call.engine.options, divisor)
        squares = reducer.measure()
        if watch is not None:
            watch.tell(Moment.SUMS)
        if not verdict.accepts(squares):
            training.skip()
            return
        writing.begin()
        reducer.update()  # 5, 6
        training.count()  # 7
        reducer.publish()
        call.engine.state_check.record_if_due(call.strategy, gradients.slab)
        reducer.leave()
        if watch is not None:
            watch.tell(Moment.UPDATED, verdict.norm)


def _checked(items: Any, call: StepCall) -> float | None:
    """Return ``items`` as a number, where there can be any."""
    replica = current_replica()
    averaged_loss, replica.averaged_loss = replica.averaged_loss, None
    return check_items(items, call.strategy is not None, averaged_loss)
