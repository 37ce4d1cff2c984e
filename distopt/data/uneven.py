"""Lets iterators of different length, one per replica, end on the same step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, count, repeat
from typing import Any

import numpy as np

from distopt.arrays import native
from distopt.data.agreement import same_everywhere
from distopt.data.current import OpenBatch
from distopt.data.structure import Array, leaves_of, rebuild
from distopt.distribute.belonging import Belonging
from distopt.distribute.collectives import exchange
from distopt.errors import InvalidArgumentError

_OUT = object()


def join(iterable: Iterable[Any]) -> Iterator[Any]:
    """Yield this replica's items, and after the last one empty items until no replica has any left.

    Each replica passes its own iterable; all of them then take the same number of steps, and a replica
    without data contributes gradients of zero. While an item is current, losses with
    ``Reduction.SUM_OVER_BATCH_SIZE`` divide by the number of examples that all replicas have in this step.
    Each step is a small collective.

    Args:
        iterable: of arrays, or of tuples, lists or dicts (with string keys) of arrays, with examples on the
            first axis. Structure, dtypes and all axes but the first are the same on every replica in a step.

    Returns:
        An iterator of the items, their members as NumPy arrays (not copied). An empty one has 0 examples and
        the other axes and the dtypes of a replica that has data.

    Raises:
        InvalidArgumentError: on every replica, while iterating: an item that is not made of arrays, or items
            that differ in kind between replicas.

    Example:
        >>> list(join([np.arange(2), np.arange(3)]))
        [array([0, 1]), array([0, 1, 2])]
    """
    return _joined(iterable, Belonging())


def _joined(iterable: Iterable[Any], belonging: Belonging) -> Iterator[Any]:
    # Once out, an iterator is not asked again: many data loaders would start over.
    iterator = chain(iterable, repeat(_OUT))
    current = OpenBatch()
    try:
        for k in count():
            item, report = _next_item(iterator)
            with belonging.entered():
                received = exchange("data.join", json.dumps(report).encode(), step=k)
            reports = {replica: json.loads(text) for replica, text in enumerate(received)}
            kind = _common_kind(reports)
            if kind is None:
                return
            current.make_current(report["items"], sum(other["items"] for other in reports.values()))
            yield _empty(kind) if item is _OUT else item
    finally:
        current.withdraw()


def _next_item(iterator: Iterator[Any]) -> tuple[Any, dict[str, Any]]:
    """Return the next item, or ``_OUT``, and the description of it that the other replicas need."""
    item = next(iterator)
    if item is _OUT:
        return _OUT, {"items": 0}
    try:
        arrays = list(map(native, leaves_of(item, "item").values()))
        kind = _kind(item, arrays)
    except InvalidArgumentError as error:
        return item, {"items": 0, "error": str(error)}
    return rebuild(item, arrays), {"items": len(arrays[0]), "kind": kind}


def _kind(item: Any, arrays: list[Array]) -> dict[str, Any]:
    """Return the description from which a replica without data makes an empty item of this kind."""
    described = [[_dtype_text(array.dtype), list(array.shape[1:])] for array in arrays]
    if type(item) is not dict:
        name = type(item).__name__ if type(item) in (tuple, list) else "array"
        return {"type": name, "keys": None, "arrays": described}
    if not all(isinstance(key, str) for key in item):
        raise InvalidArgumentError(f"the keys of a dict of arrays must be strings, received {list(item)!r}.")
    by_key = dict(sorted(zip(item, described, strict=True)))  # the order of a dict is no difference
    return {"type": "dict", "keys": list(by_key), "arrays": list(by_key.values())}


def _common_kind(reports: dict[int, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the description of this step's items, or raise if they differ; None when no replica has an item left."""
    for replica, report in reports.items():
        if "error" in report:
            raise InvalidArgumentError(f"join, on replica {replica}: {report['error']}")
    kinds = {replica: report["kind"] for replica, report in reports.items() if "kind" in report}
    same_everywhere("join(...)", {replica: _kind_text(kind) for replica, kind in kinds.items()})
    return next(iter(kinds.values()), None)


def _empty(kind: dict[str, Any]) -> Any:
    """Return an item of this kind with no examples."""
    arrays = [np.empty((0, *axes), np.dtype(dtype)) for dtype, axes in kind["arrays"]]
    template: dict[str, Any] = {
        "array": None,
        "tuple": (),
        "list": [],
        "dict": dict.fromkeys(kind["keys"] or ()),
    }
    return rebuild(template[kind["type"]], arrays)


def _dtype_text(dtype: np.dtype[Any]) -> str:
    # The types of ml_dtypes (bfloat16) are known to NumPy by name only.
    return dtype.name if dtype.kind == "V" else dtype.str


def _kind_text(kind: dict[str, Any]) -> str:
    arrays = [f"{np.dtype(dtype)} ({', '.join(['examples', *map(str, axes)])})" for dtype, axes in kind["arrays"]]
    names = kind["keys"] or [""] * len(arrays)
    return f"{kind['type']} of " + "; ".join(
        f"{name} {array}".strip() for name, array in zip(names, arrays, strict=True)
    )
