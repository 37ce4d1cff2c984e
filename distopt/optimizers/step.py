"""THE STEP. What ``apply_gradients`` does, in the order in which it happens; both optimizer families use it.

====  =================================================================  ======================================
 #    stage                                                              where
====  =================================================================  ======================================
 1    read the list: shapes, dtypes, sparse with constraint, items       ``intake``
 2    the first time for this list: agree on it, and start from          ``_begin_plan``
      replica 0's values; evaluate hyperparameters, once
 3    header: agree on the call, on which gradients exist, on the items  ``distribute.header``
 4    aggregate: the user's ``gradient_aggregator``, else the sum;       ``_aggregate``
      divide by the items if they are given
 5    clipvalue, clipnorm, global_clipnorm, then transformers            ``_transform``, ``transformers``
 6    update, dense or sparse; constraints                               the optimizer, with ``kernels``
 7    ``iterations += 1``                                                here
====  =================================================================  ======================================

The header is the commit point: what can be checked is checked before it, and a failure before it changes nothing. A
failure after it leaves the optimizer marked as damaged. ``experimental_aggregate_gradients=False`` communicates
nothing: stages 3 and 4 are left out.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distopt.aggregators.aggregator import FlatAggregator
from distopt.aggregators.rows import gather_rows
from distopt.aggregators.sum import Sum
from distopt.arena import digest as digest_of_arrays
from distopt.distribute.collectives import copy_from
from distopt.distribute.communicator import Communicator
from distopt.distribute.header import Call, agree, digest, exchange_bytes, telling_the_others
from distopt.distribute.replica import current_replica
from distopt.distribute.strategy import Strategy, get_strategy
from distopt.errors import NoSharedMemoryError
from distopt.indexed_slices import IndexedSlices
from distopt.kernels import divide
from distopt.optimizers.arguments import hook_name
from distopt.optimizers.intake import ABSENT, DENSE, SPARSE, check_items, own_pairs, read_gradients
from distopt.optimizers.sharing import check_sharing, share_state, shared_slots
from distopt.optimizers.sweep import Sweep
from distopt.slab import Gradients, Pair, Slab, describe
from distopt.variable import Variable

if TYPE_CHECKING:
    from distopt.optimizers.base import BaseOptimizer

_SUM = Sum()


def apply_gradients(
    optimizer: BaseOptimizer, grads_and_vars: Iterable[Pair], aggregates: bool, items: float | None
) -> None:
    """Do one step."""
    replica, strategy = current_replica(), get_strategy()
    communicator = strategy.ready() if aggregates else None

    with telling_the_others(communicator):  # 1
        optimizer._refuse_if_unusable()
        pairs = own_pairs(grads_and_vars)
        slab = optimizer._slab_for([variable for _, variable in pairs])
        kinds, sparse = read_gradients(pairs, slab, casts=optimizer._casts_gradients)
        optimizer._check_gradients(slab, kinds)
        check_sharing(optimizer, strategy, slab, aggregates=aggregates)
        items = check_items(items, aggregates, replica.averaged_loss)
    replica.averaged_loss = None

    if communicator is not None and pairs and communicator not in slab.agreed:  # 2
        _begin_plan(optimizer, strategy, slab)
    with telling_the_others(communicator):
        hyperparameters = optimizer._evaluate_hyperparameters(slab)

    agreed, total_items = kinds, items
    if communicator is not None and optimizer._in_lockstep:  # 3
        agreed, total_items = _agree(optimizer, communicator, slab, hyperparameters, kinds, items)
    if not agreed:
        return
    gradients = _present(optimizer, slab, kinds, agreed, sparse)

    with optimizer._damaged_by_failure():
        optimizer._create_state(gradients)
        sweep = None if communicator is None else _sweep(optimizer, strategy, slab)
        if sweep is not None and sweep.does_all(optimizer):
            _gather_rows(optimizer, strategy.communicator, gradients, total_items)
            sweep(optimizer, gradients, total_items)  # 4 to 6 of what is dense, part by part; 6 of what is sparse
        else:
            if communicator is not None:
                _aggregate(optimizer, communicator, gradients, total_items, sweep)  # 4
            _transform(optimizer, gradients)  # 5
            optimizer._update(gradients)  # 6
        for entry in gradients.entries:
            slab.variables[entry]._version += 1  # open tapes must not mix old and new values
        optimizer._iterations._array += 1  # 7


def _begin_plan(optimizer: BaseOptimizer, strategy: Strategy, slab: Slab) -> None:
    """Agree on a list of variables that is new, and make every replica start from replica 0's values."""
    communicator = strategy.ready()
    agree(communicator, _call(optimizer, slab, "first step over these variables"))
    with telling_the_others(communicator):
        optimizer._build_aggregator(slab.variables)
    if strategy.broadcast:
        synchronise(optimizer, communicator, slab.variables)
    _share(optimizer, strategy, slab)
    slab.agreed.add(communicator)


def _share(optimizer: BaseOptimizer, strategy: Strategy, slab: Slab) -> None:
    """Let the replicas of a node read each other's gradients and, in shared mode, have one copy of the state."""
    node = strategy.node()
    if node is None:
        return
    try:
        if strategy.shares_parameters:
            share_state(optimizer, slab, node)
        wire = getattr(optimizer._aggregator, "wire", None)
        is_shared = strategy.shares_parameters
        slab.sweeps[strategy.communicator] = Sweep(node, slab, is_shared=is_shared, wire=wire)
    except NoSharedMemoryError as error:
        if any(home.shared_by is not None for home in slab.homes):
            raise
        strategy.do_without_node(error)


def synchronise(optimizer: BaseOptimizer, communicator: Communicator, variables: Sequence[Variable]) -> None:
    """Overwrite parameters and the optimizer's state by replica 0's, once per communicator; warn where one differed.

    Raises:
        CollectiveMismatchError: the replicas' optimizers do not have the same variables.
    """
    done = optimizer._synchronised.setdefault(communicator, set())
    new = [variable for variable in variables if variable not in done]
    done.update(new)
    if communicator.size == 1 or not new:
        return
    shared = shared_slots(optimizer)
    state = [variable for variable in optimizer._state() if variable not in shared]
    agree(
        communicator,
        Call(
            f"broadcast of the initial values of {type(optimizer).__name__}",
            lambda: {"variables": describe(new), "optimizer state": describe(state, names=False)},
        ),
    )
    before = [digest_of_arrays([variable]) for variable in new]
    copy_from(communicator, [variable._array for variable in [*new, *state]], 0)
    changed = [k for k, variable in enumerate(new) if digest_of_arrays([variable]) != before[k]]
    reports = exchange_bytes(communicator, struct.pack("<q", min(changed, default=-1)))
    firsts = [struct.unpack("<q", report)[0] for report in reports]
    other = next((r for r, first in enumerate(firsts) if first >= 0), None)
    if other is not None and communicator.index == 0:
        warnings.warn(
            f"replica {other} began with other values than replica 0, first in variable "
            f"{new[firsts[other]].name!r}: replica 0's were taken. Seed every replica alike, or pass "
            "Strategy(broadcast=False) to keep them apart",
            stacklevel=5,
        )


def _agree(
    optimizer: BaseOptimizer,
    communicator: Communicator,
    slab: Slab,
    hyperparameters: dict[str, float],
    mine: bytearray,
    items: float | None,
) -> tuple[bytearray, float | None]:
    """Exchange the step header; return what exists on any replica, and the items of all."""
    agreement = agree(
        communicator,
        _call(optimizer, slab, "apply_gradients", int(optimizer._iterations._array), hyperparameters),
        call_digest=optimizer._call_digest(slab),
        hyper_digest=digest(
            " ".join(hyperparameters).encode() + struct.pack(f"<{len(hyperparameters)}d", *hyperparameters.values())
        ),
        presence=digest(bytes(mine)),
        items=items,
    )
    total = None if items is None else float(np.sum(agreement.items))
    if not agreement.presence_differs:
        return mine, total
    table = np.array([list(row) for row in exchange_bytes(communicator, bytes(mine))], np.uint8)
    # Dense on one replica: dense on all. Sparse on some and absent on others: sparse.
    return bytearray(np.where((table == DENSE).any(0), DENSE, table.max(0)).tolist()), total


def _call(
    optimizer: BaseOptimizer, slab: Slab, name: str, step: int = -1, values: dict[str, float] | None = None
) -> Call:
    def tell() -> dict[str, str]:
        description = {"optimizer": optimizer._identity(), "variables": slab.description}
        return description | {label: repr(value) for label, value in (values or {}).items()}

    return Call(f"{name} of {type(optimizer).__name__}", tell, step)


def _present(
    optimizer: BaseOptimizer,
    slab: Slab,
    mine: bytearray,
    agreed: bytearray,
    sparse: dict[int, IndexedSlices],
) -> Gradients:
    """Leave out what exists on no replica; what exists on others only counts as zero here.

    Raises:
        InvalidArgumentError: no gradient exists on any replica.
    """
    if agreed is not mine:
        for k, (kind, wanted) in enumerate(zip(mine, agreed, strict=True)):
            if wanted == DENSE and kind != DENSE:
                slab.views[k][...] = sparse.pop(k).to_dense() if kind == SPARSE else 0
            elif wanted == SPARSE and kind == ABSENT:
                variable = slab.variables[k]
                rows = np.empty((0, *variable.shape[1:]), variable.dtype)
                sparse[k] = IndexedSlices(rows, np.empty(0, np.int64), variable.shape)
    if ABSENT not in agreed:
        return Gradients(slab, slab.all_entries, sparse)
    absent = [slab.variables[k].name for k, kind in enumerate(agreed) if kind == ABSENT]
    optimizer._missing(absent, everything=len(absent) == len(agreed))
    return Gradients(slab, [k for k, kind in enumerate(agreed) if kind != ABSENT], sparse)


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
    items: float | None,
    sweep: Sweep | None,
) -> None:
    aggregator = optimizer._aggregator or _SUM
    if not isinstance(aggregator, FlatAggregator):
        gradients.take(aggregator(gradients.pairs()), f"gradient aggregator {hook_name(aggregator)}")
        _divide(gradients, items)
        _divide_rows(gradients, items)
        return
    if sweep is not None and optimizer._sums_flat:
        sweep.sum(gradients.dense)
    else:
        reductions = gradients.slab.reductions
        for dtype, begin, end in _runs(gradients):
            key = (communicator, dtype, begin, end)
            if key not in reductions:
                reductions[key] = aggregator.prepare(communicator, gradients.slab.flats[dtype][begin:end])
            reductions[key]()
    _divide(gradients, items)
    _gather_rows(optimizer, communicator, gradients, items)


def _gather_rows(
    optimizer: BaseOptimizer, communicator: Communicator, gradients: Gradients, items: float | None
) -> None:
    """Give every replica the rows of all sparse gradients."""
    if communicator.size > 1:
        unseen = optimizer._merges_rows or not (optimizer._clipping.active or optimizer._transformers)
        gather_rows(communicator, gradients, merge_first=unseen)
    _divide_rows(gradients, items)


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


def _divide(gradients: Gradients, items: float | None) -> None:
    if items:  # with none, nobody had data: all gradients are zero
        for dtype, flat in gradients.slab.flats.items():
            divide(flat, gradients.slab.spans(dtype, gradients.dense), items)


def _divide_rows(gradients: Gradients, items: float | None) -> None:
    if items:
        gradients.sparse = {k: slices / items for k, slices in gradients.sparse.items()}


def _transform(optimizer: BaseOptimizer, gradients: Gradients) -> None:
    if optimizer._merges_rows:
        gradients.sparse = {k: slices.deduplicate() for k, slices in gradients.sparse.items()}
    optimizer._clipping.apply(gradients)
    for transformer in optimizer._transformers:
        gradients.take(transformer(gradients.pairs()), f"gradient transformer {hook_name(transformer)}")
