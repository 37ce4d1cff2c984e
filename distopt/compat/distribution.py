"""The names of ``tf.distribute`` that optimizers use: every replica runs the whole program."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from distopt.distribute.collectives import all_reduce
from distopt.distribute.strategy import get_strategy as current_strategy
from distopt.errors import InvalidArgumentError


class ReduceOp(enum.Enum):
    """The ways of combining values of all replicas."""

    SUM = "SUM"
    MEAN = "MEAN"


class VariableAggregation(enum.Enum):
    """The ways in which TensorFlow combines what replicas assign; here each assigns its own value."""

    NONE = "none"
    SUM = "sum"
    MEAN = "mean"
    ONLY_FIRST_REPLICA = "only_first_replica"


class VariableSynchronization(enum.Enum):
    """The moments at which TensorFlow combines what replicas assign; here each assigns its own value."""

    AUTO = "auto"
    NONE = "none"
    ON_WRITE = "on_write"
    ON_READ = "on_read"


def reduced(reduce_op: Any, value: Any) -> Any:
    """Return the sum or mean of a value over all replicas."""
    total = all_reduce(value)
    kind = str(getattr(reduce_op, "value", reduce_op)).upper()
    if kind not in ("SUM", "MEAN"):
        raise InvalidArgumentError(f"all_reduce received {reduce_op!r}: expected ReduceOp.SUM or ReduceOp.MEAN")
    return total if kind == "SUM" else total / np.asarray(current_strategy().num_replicas_in_sync, total.dtype)


_INSTEAD = {
    "run": "call the step itself: every replica runs the whole program",
    "experimental_run_v2": "call the step itself: every replica runs the whole program",
    "reduce": "distopt.all_reduce(value)",
    "gather": "distopt.all_gather(value)",
    "experimental_distribute_dataset": "distopt.data.batches(...) gives each replica its part of the global batch",
    "distribute_datasets_from_function": "distopt.data.batches(...) gives each replica its part of the global batch",
    "experimental_local_results": "a value is this replica's own; distopt.all_gather(value) gives those of all",
    "experimental_distribute_values_from_function": "a value is this replica's own",
}


def _lacks(name: str) -> AttributeError:
    hint = f": {_INSTEAD[name]}" if name in _INSTEAD else ""
    return AttributeError(f"Strategy has no attribute {name!r}{hint}")


class _Lacking(type):
    """Says what takes the place of methods, where they are asked of the class."""

    def __getattr__(cls, name: str) -> Any:
        raise _lacks(name)


class Strategy(metaclass=_Lacking):
    """The current strategy with the methods of TensorFlow's and of its ``extended``."""

    def __getattr__(self, name: str) -> Any:
        known = current_strategy()
        if name in _INSTEAD or not hasattr(known, name):
            raise _lacks(name)
        return getattr(known, name)

    @property
    def extended(self) -> Strategy:
        """Return this object."""
        return self

    def _use_merge_call(self) -> bool:
        """Return True: a replica's values are those of all."""
        return True

    def update(self, var: Any, fn: Callable[..., Any], args: Any = (), kwargs: Any = None, group: bool = True) -> Any:
        """Return what ``fn`` returns for this replica's variable."""
        return fn(var, *args, **(kwargs or {}))

    def call_for_each_replica(self, fn: Callable[..., Any], args: Any = (), kwargs: Any = None) -> Any:
        """Return what ``fn`` returns on this replica."""
        return fn(*args, **(kwargs or {}))

    def reduce_to(self, reduce_op: Any, value: Any, destinations: Any = None, options: Any = None) -> Any:
        """Return the sum or mean of a value over all replicas."""
        return reduced(reduce_op, value)

    def batch_reduce_to(self, reduce_op: Any, value_destination_pairs: Any, options: Any = None) -> list[Any]:
        """Return the sums or means of values over all replicas."""
        return [reduced(reduce_op, value) for value, _ in value_destination_pairs]

    def variable_created_in_scope(self, v: Any) -> bool:
        """Return True: there is one strategy."""
        return True

    @contextmanager
    def colocate_vars_with(self, colocate_with_variable: Any) -> Iterator[None]:
        """Do nothing: variables lie in the memory of the machine."""
        yield


class ReplicaContext:
    """This replica among all replicas."""

    @property
    def replica_id_in_sync_group(self) -> int:
        """Return this replica's number."""
        return current_strategy().replica_index

    @property
    def num_replicas_in_sync(self) -> int:
        """Return the number of replicas."""
        return current_strategy().num_replicas_in_sync

    @property
    def strategy(self) -> Strategy:
        """Return the strategy."""
        return Strategy()

    def merge_call(self, merge_fn: Callable[..., Any], args: Any = (), kwargs: Any = None) -> Any:
        """Return what ``merge_fn`` returns for this replica's values: nothing is merged."""
        return merge_fn(Strategy(), *args, **(kwargs or {}))

    def all_reduce(self, reduce_op: Any, value: Any, options: Any = None) -> Any:
        """Return the sum or mean over all replicas, of a value or of each in a list."""
        if isinstance(value, (list, tuple)):
            return type(value)(reduced(reduce_op, each) for each in value)
        return reduced(reduce_op, value)


def get_strategy() -> Strategy:
    """Return the current strategy."""
    return Strategy()


def get_replica_context() -> ReplicaContext:
    """Return this replica among all replicas."""
    return ReplicaContext()


def in_cross_replica_context() -> bool:
    """Return False: every replica runs its own program."""
    return False


def has_strategy() -> bool:
    """Return whether there are several replicas."""
    return current_strategy().num_replicas_in_sync > 1


def maybe_merge_call(fn: Callable[..., Any], strategy: Any, *args: Any, **kwargs: Any) -> Any:
    """Return what ``fn`` returns for this replica's values."""
    return fn(strategy, *args, **kwargs)


def strategy_supports_no_merge_call() -> bool:
    """Return True."""
    return True


class DistributedVariable:
    """The class of TensorFlow's variables over several devices, for ``isinstance``; there are none here."""


class AggregatingVariable(DistributedVariable):
    """The class of TensorFlow's variables that combine what is assigned, for ``isinstance``; there are none here."""
