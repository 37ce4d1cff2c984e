"""Goes on without the replicas that have died (experimental; Open MPI, ``mpirun --with-ft ulfm``, replicated mode).

The survivors regroup, take the state of the replica that has done most steps, and go on with the data that no committed
step has used. So each example is used exactly once an epoch, and no checkpoint is read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from distopt.data.global_batches import Batches
from distopt.distribute.collectives import barrier, copy_from
from distopt.distribute.strategy import Strategy, get_strategy
from distopt.distribute.transports.elastic import ElasticCommunicator
from distopt.errors import InvalidArgumentError, ReplicaLostError
from distopt.optimizers.common.access import counter_of, engine_of, family_of
from distopt.optimizers.common.base import BaseOptimizer
from distopt.speaking import write

__all__ = ["run"]


def __dir__() -> list[str]:
    return __all__


T = TypeVar("T")


def run(loop: Callable[[], T], *, optimizer: BaseOptimizer, data: Batches) -> T:
    """Call a training loop, and call it again with the survivors whenever a replica has died.

    Args:
        loop: function that iterates over ``data`` and does one step of ``optimizer`` per batch; it is called again in
            the middle of the data. Sums and counts of its own (of losses, ...) must be kept outside of the function.
        optimizer: the optimizer that makes the steps.
        data: the result of ``distopt.data.batches``.

    Returns:
        The result of the last call of the loop.

    Raises:
        InvalidArgumentError: the current strategy is not elastic, or shares parameters.

    Example:
        >>> import distopt
        >>> sgd, data = distopt.optimizers.SGD(0.1), distopt.data.batches(np.arange(4), global_batch_size=2)
        >>> run(lambda: None, optimizer=sgd, data=data)
        Traceback (most recent call last):
        distopt.errors.InvalidArgumentError: distopt.elastic.run: the replicas must be able to lose one: run it in the \
scope of Strategy(ElasticCommunicator()), with update='replicated'
    """
    strategy = get_strategy()
    if not isinstance(strategy.communicator, ElasticCommunicator) or strategy.update != "replicated":
        raise InvalidArgumentError(
            "distopt.elastic.run: the replicas must be able to lose one: run it in the scope of "
            "Strategy(ElasticCommunicator()), with update='replicated'"
        )
    first_step, beginning = int(counter_of(optimizer)), data.state()
    is_lost = False
    while True:
        try:
            if is_lost:
                _regroup(strategy, optimizer)
                is_lost = False
                data.resume(_after(data, beginning, int(counter_of(optimizer)) - first_step))
            result = loop()
            barrier()  # nobody leaves before all have done the last step
            return result
        except ReplicaLostError:
            is_lost = True


def _regroup(strategy: Strategy, optimizer: BaseOptimizer) -> None:
    """Make the survivors the replicas of a strategy, with the state of the replica that has done most steps."""
    old = strategy.communicator
    assert isinstance(old, ElasticCommunicator)
    communicator = old.shrink()
    strategy.regroup(communicator)
    optimizer.cancel_step()
    engine, counter = engine_of(optimizer), counter_of(optimizer)
    engine.forget(old)
    steps = communicator.all_gather(np.array([int(counter)], np.int64).view(np.uint8))
    source = int(np.argmax(steps.copy().view(np.int64)))
    state = dict.fromkeys([*engine.agreed, *family_of(optimizer).state(), counter])
    copy_from(communicator, [variable.storage.array for variable in state], source)
    for variable in state:
        variable.storage.note_write()
    engine.training.forget_micro_steps()
    if communicator.index == 0:
        write(
            sys.stdout,
            f"distopt: {old.size - communicator.size} of {old.size} replicas died; {communicator.size} go on from step "
            f"{int(counter)}\n",
        )


def _after(data: Batches, state: Mapping[str, Any], batches: int) -> dict[str, Any]:
    """Return the position in the data that is ``batches`` batches after ``state``."""
    epoch, example = state["epoch"], state["example"]
    for _ in range(batches):
        example += data.global_batch_size
        if example >= data.examples:
            epoch, example = epoch + 1, 0
    return {**state, "epoch": epoch, "example": example}
