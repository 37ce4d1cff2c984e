"""THE STEP. What ``apply_gradients`` does, in the order in which it happens; both optimizer families use it.

====  =================================================================  ======================================
 #    stage                                                              where
====  =================================================================  ======================================
 1    read the list: shapes, dtypes, sparse with constraint, items       ``intake``
 2    the first time for this list: agree on it, and start from          ``begin_plan``
      replica 0's values; a micro-step is added up, and ends here;       ``accumulation``
      evaluate hyperparameters, once
 3    header: agree on the call, on which gradients exist, on the items; ``agreement``,
      every k steps on parameters and slots                              ``divergence``
 4    aggregate: the user's ``gradient_aggregator``, else the sum;       ``_aggregate``
      divide by the items if they are given, and by the loss scale;
      where asked for, look whether the sum is finite                    ``inspection``
 5    clipvalue, clipnorm, global_clipnorm, then transformers            ``_transform``, ``transformers``
 6    update, dense or sparse; constraints                               the optimizer, with ``kernels``
 7    ``iterations += 1``                                                here
====  =================================================================  ======================================

The header is the commit point: what can be checked is checked before it, and a failure before it changes nothing. A
failure after it leaves the optimizer marked as damaged. ``experimental_aggregate_gradients=False`` communicates
nothing: stages 3 and 4 are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from distopt.aggregators.aggregator import FlatAggregator
from distopt.aggregators.sum import Sum
from distopt.arguments import hook_name
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import telling_the_others
from distopt.distribute.strategy import Strategy, get_strategy
from distopt.engine.agreement import agree_on_step, present
from distopt.engine.beginning import begin_plan
from distopt.engine.divergence import is_due, mark_as_different, seal
from distopt.engine.state.inspection import Inspection, inspects, is_finite
from distopt.engine.sweep.sharing import check_sharing, share_state
from distopt.engine.sweep.sweep import Sweep
from distopt.errors import NonFiniteGradientError, ReplicaLostError
from distopt.kernels import divide
from distopt.process.replica import current_replica
from distopt.slabs.intake import check_items, own_pairs, read_gradients
from distopt.slabs.rows import gather_rows
from distopt.slabs.slab import Gradients, Pair, Slab
from distopt.telemetry.receipt import Receipt
from distopt.variables.indexed_slices import IndexedSlices

if TYPE_CHECKING:
    from distopt.optimizers.common.base import BaseOptimizer

_SUM = Sum()


def apply_gradients(
    optimizer: BaseOptimizer, grads_and_vars: Iterable[Pair], aggregates: bool, items: float | None
) -> None:
    """Do one step."""
    strategy = get_strategy()
    communicator = strategy.ready() if aggregates else None
    with telling_the_others(communicator):  # 1
        optimizer._refuse_if_unusable()
        optimizer._give_up_step()
        pairs = own_pairs(grads_and_vars)
        slab = optimizer._slab_for([variable for _, variable in pairs])
        check_sharing(optimizer, strategy, slab, aggregates=aggregates)
        kinds, sparse = read_gradients(pairs, slab, casts=optimizer._casts_gradients)
    if communicator is not None and pairs:
        begin_plan(optimizer, strategy, slab)
    finish(optimizer, strategy if aggregates else None, slab, kinds, sparse, items)


def finish(
    optimizer: BaseOptimizer,
    strategy: Strategy | None,
    slab: Slab,
    kinds: bytearray,
    sparse: dict[int, IndexedSlices],
    items: float | None,
    *,
    name: str = "apply_gradients",
    wait_for_sums: Callable[[], None] | None = None,
) -> None:
    """Do what follows when the gradients lie in the slab.

    Args:
        optimizer: whose step it is.
        strategy: the replicas; None communicates nothing.
        slab: the gradients.
        kinds: for each entry ABSENT, DENSE or SPARSE.
        sparse: the sparse gradients by entry.
        items: of this replica's summed loss, or None.
        name: what the user called.
        wait_for_sums: waits until the dense gradients are summed, where that has begun already.
    """
    replica, are_summed = current_replica(), wait_for_sums is not None
    communicator = None if strategy is None else strategy.communicator
    with telling_the_others(communicator):  # 2
        optimizer._check_gradients(slab, kinds)
        items = check_items(items, communicator is not None, replica.averaged_loss)
        replica.averaged_loss = None
        accumulation, counter = optimizer._accumulation, optimizer._iterations
        if accumulation is not None:
            if not accumulation.take(counter, slab, kinds, sparse, items):
                counter.storage.array += 1
                return
            items = accumulation.total_items(items)
        hyperparameters = optimizer._evaluate_hyperparameters(slab)
        if optimizer._loss_scale is not None:
            hyperparameters["loss_scale"] = optimizer._loss_scale.factor

    agreed, total_items = kinds, items
    if strategy is not None and optimizer._in_lockstep:  # 3
        agreed, total_items = agree_on_step(optimizer, strategy, slab, hyperparameters, kinds, sparse, items, name)
    if not agreed:
        return
    gradients = present(optimizer, slab, kinds, agreed, sparse, are_summed=are_summed)

    try:
        optimizer._create_state(gradients)
        if wait_for_sums is not None:
            wait_for_sums()
        for entry in gradients.entries:
            slab.variables[entry].storage.writes += 1  # open tapes must not mix old and new values
        if strategy is None:
            is_done = _update_alone(optimizer, gradients)  # 5, 6
        else:
            is_settled = agreed is kinds and not are_summed
            is_done = _sum_and_update(  # 4 to 6
                optimizer, strategy, gradients, items, total_items, are_summed=are_summed, is_settled=is_settled
            )
        _count(optimizer, is_done=is_done)  # 7
    except (NonFiniteGradientError, ReplicaLostError):
        raise  # nothing was written
    except BaseException as error:
        optimizer._damaged_by(error)
        raise


def _count(optimizer: BaseOptimizer, *, is_done: bool) -> None:
    """Count the step; one that was left out is as if its micro-steps had not been."""
    accumulation, loss_scale = optimizer._accumulation, optimizer._loss_scale
    optimizer._iterations.storage.array += 1 if is_done else 1 - optimizer._micro_steps
    if accumulation is not None:
        accumulation.clear()
    if loss_scale is not None:
        loss_scale.note(is_finite=is_done)


def _update_alone(optimizer: BaseOptimizer, gradients: Gradients) -> bool:
    """Do stages 4 to 6 with this replica's gradients as if they were the sum."""
    _divide(gradients, _divisor(optimizer, None))
    if optimizer._skips_nonfinite and not is_finite(gradients):
        return False
    _transform(optimizer, gradients)  # 5
    optimizer._update(gradients)  # 6
    mark_as_different([*gradients.slab.variables, *optimizer._state()])
    return True


def _divisor(optimizer: BaseOptimizer, items: float | None) -> float | None:
    """What the sum is divided by: its items, or the number of micro-steps; and the loss scale."""
    if items == 0:  # all gradients are zero: the header saw to that
        return None
    scale = 1.0 if optimizer._loss_scale is None else optimizer._loss_scale.factor
    divisor = (optimizer._micro_steps if items is None else items) * scale
    return None if divisor == 1 else divisor


def _sum_and_update(
    optimizer: BaseOptimizer,
    strategy: Strategy,
    gradients: Gradients,
    items: float | None,
    total_items: float | None,
    *,
    are_summed: bool,
    is_settled: bool,
) -> bool:
    """Do stages 4 to 6 among the replicas; return whether the step was done: a look at the sums may leave it out."""
    communicator, divisor = strategy.communicator, _divisor(optimizer, total_items)
    receipt = _receipt(strategy)
    step = int(optimizer._iterations.storage.array)
    names = [variable.name for variable in gradients.slab.variables]
    if receipt is not None:
        receipt.note_gradients(step, items, names, gradients.by_variable())
    sweep = _sweep(optimizer, strategy, gradients.slab)
    if sweep is not None and sweep.does_all(optimizer, inspects=inspects(optimizer, strategy)):
        inspection = _inspection(optimizer, strategy, gradients, sweep, are_summed=are_summed)
        _gather_rows(optimizer, communicator, gradients, divisor)
        # 4 to 6 of what is dense, part by part; 6 of what is sparse
        if not sweep(optimizer, gradients, divisor, inspection, are_summed=are_summed, is_settled=is_settled):
            return False
        if strategy.shares_parameters and is_due(optimizer, strategy, ahead=1):
            seal(optimizer, gradients.slab)
        sweep.leave()
    else:
        inspection = _inspection(optimizer, strategy, gradients, None, are_summed=False)
        _aggregate(optimizer, communicator, gradients, divisor, sweep, are_summed=are_summed)  # 4
        if inspection is not None and not inspection.look():
            return False
        _transform(optimizer, gradients)  # 5
        optimizer._update(gradients)  # 6
    if receipt is not None and inspection is not None:
        receipt.note_update(
            step, total_items, inspection.norm, names, [v.storage.array for v in gradients.slab.variables]
        )
    return True


def _inspection(
    optimizer: BaseOptimizer, strategy: Strategy, gradients: Gradients, sweep: Sweep | None, *, are_summed: bool
) -> Inspection | None:
    """What looks at the sums, where that was asked for and the replicas can talk about it."""
    if not inspects(optimizer, strategy) or not optimizer._in_lockstep:
        return None
    ranges = None if sweep is None else sweep.overwritten(gradients.dense)
    return Inspection(optimizer, strategy, gradients, ranges, are_summed=are_summed)


def _receipt(strategy: Strategy) -> Receipt | None:
    """What writes a line about the step, where that was asked for."""
    if strategy.receipt is None:
        return None
    return Receipt.of(strategy.receipt, strategy.replica_index, strategy.num_replicas_in_sync)


def _sweep(optimizer: BaseOptimizer, strategy: Strategy, slab: Slab) -> Sweep | None:
    """How the replicas of this node do the step together; None where they share no memory."""
    if strategy.shares_parameters and len(optimizer._slot_flats) > len(optimizer._shared_slots):
        node = strategy.node()
        assert node is not None
        share_state(optimizer, slab, node)
    sweep: Sweep | None = slab.sweeps.get(strategy.communicator)
    return sweep


def _aggregate(
    optimizer: BaseOptimizer,
    communicator: Communicator,
    gradients: Gradients,
    divisor: float | None,
    sweep: Sweep | None,
    *,
    are_summed: bool,
) -> None:
    aggregator = optimizer._aggregator or _SUM
    if not isinstance(aggregator, FlatAggregator):
        gradients.take(aggregator(gradients.pairs()), f"gradient aggregator {hook_name(aggregator)}")
        _divide(gradients, divisor)
        return
    if sweep is not None and optimizer._sums_flat:
        sweep.sum(gradients.dense, are_summed=are_summed)
    else:
        reductions = gradients.slab.reductions
        for dtype, begin, end in _runs(gradients):
            key = (communicator, dtype, begin, end)
            if key not in reductions:
                reductions[key] = aggregator.prepare(communicator, gradients.slab.flats[dtype][begin:end])
            reductions[key]()
    _divide_dense(gradients, divisor)
    _gather_rows(optimizer, communicator, gradients, divisor)


def _gather_rows(
    optimizer: BaseOptimizer, communicator: Communicator, gradients: Gradients, divisor: float | None
) -> None:
    """Give every replica the rows of all sparse gradients."""
    if communicator.size > 1:
        unseen = optimizer._merges_rows or not (optimizer._clipping.active or optimizer._transformers)
        gather_rows(communicator, gradients, merge_first=unseen)
    _divide_rows(gradients, divisor)


def _runs(gradients: Gradients) -> Iterator[tuple[np.dtype[Any], int, int]]:
    """The parts of the slab that hold dense gradients: all of it, or what lies between sparse entries."""
    slab = gradients.slab
    for dtype, flat in slab.flats.items():
        begin = 0
        for k in slab.members[dtype]:
            if k in gradients.sparse:
                if slab.starts[k] > begin:
                    yield dtype, begin, slab.starts[k]
                begin = slab.ends[k]
        if begin < flat.size:
            yield dtype, begin, flat.size


def _divide(gradients: Gradients, divisor: float | None) -> None:
    _divide_dense(gradients, divisor)
    _divide_rows(gradients, divisor)


def _divide_dense(gradients: Gradients, divisor: float | None) -> None:
    if divisor is not None:
        for dtype, flat in gradients.slab.flats.items():
            divide(flat, gradients.slab.spans(dtype, gradients.dense), divisor)


def _divide_rows(gradients: Gradients, divisor: float | None) -> None:
    if divisor is not None:
        gradients.sparse = {k: slices / divisor for k, slices in gradients.sparse.items()}


def _transform(optimizer: BaseOptimizer, gradients: Gradients) -> None:
    if optimizer._merges_rows:
        gradients.sparse = {k: slices.deduplicate() for k, slices in gradients.sparse.items()}
    optimizer._clipping.apply(gradients)
    for transformer in optimizer._transformers:
        gradients.take(transformer(gradients.pairs()), f"gradient transformer {hook_name(transformer)}")
