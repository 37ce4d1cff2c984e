"""Named collectives, agreed on like a step: users build hooks, metrics and evaluation from them.

All replicas must make the same calls in the same order. Where they do not, every one of them gets an error that
says who called what; where one fails in the middle of preparing its call, the others are told instead of waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from distopt.arrays import native, refuse_mask
from distopt.distribute.agreement.communicator import Array, Communicator
from distopt.distribute.agreement.header import Call, agree, exchange_bytes, telling_the_others
from distopt.distribute.agreement.summation import sum_in_place
from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError
from distopt.variables.variable import Variable

T = TypeVar("T", bound="Sequence[Variable] | Variable")

_SUMMED = ("float16", "bfloat16", "float32", "float64")
"""The dtypes that kernels add; NumPy adds integers, complex numbers and the like, gathered, in the same tree."""

_EXACT: dict[str, Callable[..., Array]] = {"max": np.maximum.reduce, "min": np.minimum.reduce}


def replica_index() -> int:
    """Return this replica's index, 0 ... R - 1.

    Example:
        >>> replica_index()
        0
    """
    return get_strategy().replica_index


def num_replicas() -> int:
    """Return the number of replicas R.

    Example:
        >>> num_replicas()
        1
    """
    return get_strategy().num_replicas_in_sync


def all_reduce(x: Any, op: str = "sum") -> Array:
    """Combine an array over all replicas; each gets the result.

    ``sum``: ((x0 + x1) + (x2 + x3)) + ..., in the fixed tree of distopt, the same bits under every transport.

    Args:
        x: array or number, the same shape and dtype on every replica; not changed.
        op: ``"sum"``, ``"max"`` or ``"min"``.

    Returns:
        A new array of the shape and dtype of ``x``. float16 and bfloat16 are summed in float32 and rounded once.

    Raises:
        InvalidArgumentError: an unknown ``op``, or something that is no array of numbers.
        CollectiveMismatchError: shapes, dtypes, ops or calls differ between replicas (on every one of them).

    Example:
        >>> all_reduce([1.0, 2.0])
        array([1., 2.])
    """
    communicator = get_strategy().ready()
    with telling_the_others(communicator):
        if op != "sum" and op not in _EXACT:
            raise InvalidArgumentError(f"all_reduce(op={op!r}): expected 'sum', 'max' or 'min'")
        array = _as_array(x, "all_reduce")
        if op == "sum" and array.dtype == bool:
            raise InvalidArgumentError(
                "all_reduce(op='sum') of bool: True + True is True. Count with x.astype(int); 'any' is op='max' and "
                "'all' is op='min'"
            )
    _agree_on_array(communicator, f"all_reduce(op={op!r})", array)
    if op != "sum" or array.dtype.name not in _SUMMED:
        rows = _gather(communicator, array)
        combined = _EXACT[op](rows) if op != "sum" else _add_rows(rows)
        return np.asarray(combined, array.dtype)
    result = array.copy()
    sum_in_place(communicator, result.reshape(-1))
    return result


def all_gather(x: Any) -> Array:
    """Stack an array over all replicas: row r is replica r's.

    Args:
        x: array or number, the same shape and dtype on every replica; not changed.

    Returns:
        A new array of shape (R, \\*x.shape).

    Raises:
        CollectiveMismatchError: shapes, dtypes or calls differ between replicas (on every one of them).

    Example:
        >>> all_gather(3).shape
        (1,)
    """
    communicator = get_strategy().ready()
    with telling_the_others(communicator):
        array = _as_array(x, "all_gather")
    _agree_on_array(communicator, "all_gather", array)
    return _gather(communicator, array)


def broadcast(x: Any, source: int = 0) -> Any:
    """Give every replica what replica ``source`` has.

    Args:
        x: an array (a new one is returned), a Variable, or a list of Variables, which are overwritten in place.
        source: the index of the replica whose values count.

    Returns:
        The new array; or ``x`` itself where it holds Variables.

    Raises:
        InvalidArgumentError: ``source`` is no replica.
        CollectiveMismatchError: shapes, dtypes or calls differ between replicas (on every one of them).

    Example:
        >>> broadcast([1, 2, 3])
        array([1, 2, 3])
    """
    communicator = get_strategy().ready()
    with telling_the_others(communicator):
        if not 0 <= source < communicator.size:
            raise InvalidArgumentError(
                f"broadcast(source={source}): there are replicas 0 to {communicator.size - 1} only"
            )
        variables = [x] if isinstance(x, Variable) else x
        held = isinstance(variables, (list, tuple)) and all(isinstance(v, Variable) for v in variables)
        arrays = [v.storage.array for v in variables] if held else [_as_array(x, "broadcast").copy()]
    what = "; ".join(f"{a.dtype.name}{list(a.shape)}" for a in arrays)
    agree(communicator, Call(f"broadcast(source={source})", lambda: {"arrays": what}))
    copy_from(communicator, arrays, source)
    if not held:
        return arrays[0]
    for variable in variables:
        variable.storage.note_write()
        variable.storage.may_differ = False
    return x


def barrier() -> None:
    """Return when every replica has called it.

    Example:
        >>> barrier()
    """
    agree(get_strategy().ready(), Call("barrier"))


def print_once(*values: Any, **options: Any) -> None:
    """Print on replica 0 only. Local: the other replicas need not call it.

    Args:
        *values: as for ``print``.
        **options: as for ``print``.

    Example:
        >>> print_once("one line, however many replicas")
        one line, however many replicas
    """
    if replica_index() == 0:
        print(*values, **options)


def exchange(call: str, payload: bytes, step: int = -1) -> list[bytes]:
    """Give every replica everybody's bytes (of any length), after agreeing on the call and its step."""
    communicator = get_strategy().ready()
    agree(communicator, Call(call, step=step))
    return exchange_bytes(communicator, payload)


def copy_from(communicator: Communicator, arrays: Sequence[Array], source: int) -> None:
    """Overwrite arrays by those of replica ``source``; the caller has agreed on the call."""
    size = communicator.size
    for array in arrays:
        flat = array.reshape(-1)
        if communicator.index == source:
            communicator.transfer([None if r == source else flat for r in range(size)], [None] * size)
        else:
            communicator.transfer([None] * size, [flat if r == source else None for r in range(size)])


def _as_array(x: Any, caller: str) -> Array:
    refuse_mask(x, f"what {caller} received")
    array = np.ascontiguousarray(x.storage.array if isinstance(x, Variable) else x).reshape(np.shape(x))
    if array.dtype.hasobject or array.dtype.kind in "USMm":
        raise InvalidArgumentError(
            f"{caller}: expected an array of numbers, got dtype {array.dtype} from {type(x).__name__}"
        )
    return native(array)


def _agree_on_array(communicator: Communicator, name: str, array: Array) -> None:
    agree(communicator, Call(name, lambda: {"shape": str(array.shape), "dtype": array.dtype.name}))


def _gather(communicator: Communicator, array: Array) -> Array:
    out = np.empty((communicator.size, *array.shape), array.dtype)
    rows = list(out.reshape(communicator.size, -1))
    communicator.transfer([array.reshape(-1)] * communicator.size, rows)
    return out


def _add_rows(rows: Array) -> Array:
    """Add integers (in 64 bits: any order is exact) or complex numbers (in the tree)."""
    dtype = rows.dtype
    if dtype.kind in "iu":
        total = rows.sum(axis=0, dtype=np.uint64 if dtype.kind == "u" else np.int64)
        if np.any(total > np.iinfo(dtype).max) or np.any(total < np.iinfo(dtype).min):
            raise InvalidArgumentError(
                f"all_reduce(op='sum') of {dtype}: the sum does not fit into that type; pass x.astype('int64')"
            )
        return np.asarray(total)
    level = list(rows)
    while len(level) > 1:
        pairs = [level[k] + level[k + 1] for k in range(0, len(level) - 1, 2)]
        level = pairs + ([level[-1]] if len(level) % 2 else [])
    return np.asarray(level[0])
