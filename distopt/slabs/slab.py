"""The gradients of one step, from the user's arrays to the update kernels.

A ``Slab`` is made once for a list of variables: flat memory for their gradients, and everything about the list that
does not change from step to step. ``Gradients`` is one step's content: which entries exist, which are sparse.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from distopt.arrays import Array
from distopt.distribute.agreement.communicator import Communicator
from distopt.errors import InvalidArgumentError
from distopt.memory.layout import ALIGNMENT, SPAN_UNIT, flat_memory, layout
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable

Gradient: TypeAlias = "Array | IndexedSlices"
Pair: TypeAlias = "tuple[Any, Variable]"

_AFTER_SLOTS = 8
"""Slabs are staggered after the parameters and their slots."""


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def describe(variables: Iterable[Variable], *, names: bool = True) -> str:
    """Return names, shapes and dtypes, as the message about a mismatch shows them."""
    return ", ".join(f"{v.name + ': ' if names else ''}{v.dtype.name}{list(v.shape)}" for v in variables) or "none"


class Slab:
    """Memory for one gradient per listed variable.

    Args:
        variables: the variables, in the order of the step; the same one may stand twice.
        place: this replica's number where others of its node may come to read the slab; None keeps it private.
    """

    def __init__(self, variables: Sequence[Variable], place: int | None = None) -> None:
        self.variables = list(variables)
        self._lengths: dict[np.dtype[Any], int] = {}
        self.starts = [0] * len(self.variables)
        self.ends = [0] * len(self.variables)
        self.views: list[Array] = []
        self.members: dict[np.dtype[Any], list[int]] = {}
        for k, variable in enumerate(self.variables):
            self.members.setdefault(variable.dtype, []).append(k)
        for dtype, members in self.members.items():
            starts, length = layout([self.variables[k].size for k in members], dtype.itemsize)
            self._lengths[dtype] = length
            for k, start, end in zip(members, starts, [*starts[1:], length], strict=True):
                self.starts[k], self.ends[k] = start, end
        self.first_norm_block = [0, *itertools.accumulate(-(-v.size // SPAN_UNIT) for v in self.variables)]
        """Where each entry's block sums of squares begin in ``squares``."""
        self.place = place
        number = None if place is None else _AFTER_SLOTS + place
        raw, self.segment = flat_memory(self._nbytes, np.dtype(np.uint8), number)
        self.flats, self.squares = self._carve(raw)
        for variable, start in zip(self.variables, self.starts, strict=True):
            view = self.flats[variable.dtype][start : start + variable.size]
            self.views.append(view.reshape(variable.shape))
        self.dtypes = [view.dtype for view in self.views]
        self.all_entries = list(range(len(self.variables)))
        self.has_duplicates = len({id(v) for v in self.variables}) < len(self.variables)
        self._spans: dict[tuple[np.dtype[Any], bytes], Array] = {}
        self.tables: dict[bytes, list[Any]] = {}
        """Kept by the update: where entries lie in parameters and in the slab."""
        self.reductions: dict[Any, Callable[[], None]] = {}
        """Kept by the step: the prepared reductions of parts of the flat buffers."""
        self.sweeps: dict[Communicator, Any] = {}
        """Kept by the step: how the replicas of a node sum and update this slab together."""
        self.streams: dict[Communicator, Any] = {}
        """Kept by the step: the communication threads."""
        self.agreed: set[Communicator] = set()
        """Kept by the step: whose replicas have agreed on this list."""
        self.call_digests: dict[Communicator, int] = {}
        """Kept by the step: digest of the optimizer's options and of this list, where it was agreed on."""
        self.variants = [0] * len(self.variables)
        """Kept by the optimizer: which variant of its rule updates each variable."""
        self.has_slots = False
        """Kept by the optimizer: whether every variable has its slots."""

    @property
    def _nbytes(self) -> int:
        sizes = [_padded(length * dtype.itemsize) for dtype, length in self._lengths.items()]
        return sum(sizes) + self.first_norm_block[-1] * 8

    def _carve(self, raw: Array) -> tuple[dict[np.dtype[Any], Array], Array]:
        """Cut bytes into the flat buffers and the block sums of squares."""
        flats, begin = {}, 0
        for dtype, length in self._lengths.items():
            flats[dtype] = raw[begin : begin + length * dtype.itemsize].view(dtype)
            begin += _padded(length * dtype.itemsize)
        return flats, raw[begin : begin + self.first_norm_block[-1] * 8].view(np.float64)

    def of_another(self, segment: Array) -> tuple[dict[np.dtype[Any], Array], Array]:
        """Return the flat buffers and the sums of squares in the segment of another replica's equal slab."""
        return self._carve(segment[segment.size - self._nbytes :])  # each begins with a shift of its own

    def forget(self, communicator: Communicator) -> None:
        """Drop what was agreed on and prepared with these replicas."""
        self.agreed.discard(communicator)
        self.call_digests.pop(communicator, None)
        self.sweeps.pop(communicator, None)
        stream = self.streams.pop(communicator, None)
        if stream is not None:
            stream.end()
        self.reductions = {key: value for key, value in self.reductions.items() if key[0] is not communicator}

    @cached_property
    def entry_of(self) -> dict[int, int]:
        """Each variable's entry, by id."""
        return {id(variable): k for k, variable in enumerate(self.variables)}

    @cached_property
    def homes(self) -> list[Any]:
        """Where the variables lie."""
        return list(dict.fromkeys(variable.storage.buffer for variable in self.variables))

    @cached_property
    def description(self) -> str:
        """Names, shapes and dtypes, as a mismatch shows them."""
        return describe(self.variables)

    def spans(self, dtype: np.dtype[Any], entries: Sequence[int]) -> Array:
        """Return the (start, length) table of entries of one dtype, int64 of shape (k, 2)."""
        key = (dtype, b"all" if entries is self.all_entries else np.asarray(entries, np.int64).tobytes())
        if key not in self._spans:
            if len(self._spans) > 64:
                self._spans.clear()
            rows = [(self.starts[k], self.variables[k].size) for k in entries if self.dtypes[k] == dtype]
            self._spans[key] = np.array(rows, np.int64).reshape(-1, 2)
        return self._spans[key]


class Gradients:
    """What exists of a slab's gradients in one step.

    Args:
        slab: the memory; dense gradients lie in its views.
        entries: the entries that take part, in order.
        sparse: those of them that are sparse.
    """

    def __init__(self, slab: Slab, entries: Sequence[int], sparse: dict[int, IndexedSlices]) -> None:
        self.slab = slab
        self.entries = entries
        self.sparse = sparse

    @property
    def dense(self) -> Sequence[int]:
        """The entries whose gradients lie in the slab."""
        return [k for k in self.entries if k not in self.sparse] if self.sparse else self.entries

    def pairs(self) -> list[Pair]:
        """Return the list of (gradient, variable) that hooks see."""
        slab = self.slab
        return [(self.sparse.get(k, slab.views[k]), slab.variables[k]) for k in self.entries]

    def by_variable(self) -> list[Gradient | None]:
        """Return each listed variable's gradient, None where it takes no part."""
        found: list[Gradient | None] = [None] * len(self.slab.variables)
        for k in self.entries:
            found[k] = self.sparse.get(k, self.slab.views[k])
        return found

    def take(self, pairs: Iterable[Pair], hook: str) -> None:
        """Adopt the list that a user's hook returned.

        Raises:
            InvalidArgumentError: it is no list of (gradient, variable) over the variables that went in.
        """
        waiting, entries = list(self.entries), []
        sparse: dict[int, IndexedSlices] = {}
        dense: dict[int, Array] = {}
        for gradient, variable in as_pairs(pairs, f"{hook} returned", "a list of (gradient, variable) pairs"):
            entry = next((k for k in waiting if self.slab.variables[k] is variable), None)
            if entry is None:
                raise InvalidArgumentError(
                    f"{hook} returned a pair for {variable.name!r}, which was not in its list "
                    "(or returned it twice): return the (gradient, variable) pairs it was given, with new gradients"
                )
            waiting.remove(entry)
            entries.append(entry)
            if gradient is not self.slab.views[entry]:
                fitting = fit(gradient, variable, f"{hook} returned a list in which the gradient", casts=True)
                if isinstance(fitting, IndexedSlices):
                    sparse[entry] = fitting
                else:
                    dense[entry] = self._apart_from_slab(fitting)
        for entry, array in dense.items():
            np.copyto(self.slab.views[entry], array)
        self.entries, self.sparse = entries, sparse

    def _apart_from_slab(self, array: Array) -> Array:
        """Return a copy of an array that lies in the slab: writing one gradient must not change the next."""
        lies_in_slab = any(np.may_share_memory(array, flat) for flat in self.slab.flats.values())
        return array.copy() if lies_in_slab else array


def fit(gradient: Any, variable: Variable, said: str, *, casts: bool) -> Gradient:
    """Return a gradient in its variable's shape and dtype.

    Args:
        gradient: anything ``np.asarray`` takes, or IndexedSlices; not changed.
        variable: the variable.
        said: how the message begins.
        casts: whether an array of another real dtype is cast or refused (numbers and lists are always cast).

    Raises:
        InvalidArgumentError: it does not fit.
    """
    has_dtype = hasattr(gradient, "dtype")
    array = _as_rows(gradient, variable) if isinstance(gradient, IndexedSlices) else _as_array(gradient, variable, said)
    if array.shape != variable.shape:
        raise InvalidArgumentError(
            f"{said} of {variable.name!r} has shape {array.shape}, and the variable {variable.shape}: "
            "they must be equal (nothing is broadcast)"
        )
    if array.dtype == variable.dtype:
        return array
    if array.dtype.kind == "c" or (has_dtype and not casts):
        raise InvalidArgumentError(
            f"{said} of {variable.name!r} has dtype {array.dtype}, and the variable {variable.dtype}: "
            f"pass gradient.astype({variable.dtype.name!r})"
        )
    return array.astype(variable.dtype)


def _as_rows(slices: IndexedSlices, variable: Variable) -> IndexedSlices:
    return slices if slices.dense_shape else IndexedSlices(slices.values, slices.indices, variable.shape)


def _as_array(gradient: Any, variable: Variable, said: str) -> Array:
    if gradient is None:
        raise InvalidArgumentError(
            f"{said} of {variable.name!r} is None: leave the pair out to skip the variable, or return zeros"
        )
    try:
        array = np.asarray(gradient)
    except Exception as error:
        raise InvalidArgumentError(
            f"{said} of {variable.name!r} is {type(gradient).__name__}, which np.asarray does not take: {error}"
        ) from error
    if array.dtype.hasobject or array.dtype.kind in "USMm":
        raise InvalidArgumentError(
            f"{said} of {variable.name!r} is {type(gradient).__name__} of dtype {array.dtype}: expected an "
            "array of numbers or IndexedSlices"
        )
    return array


def as_pairs(pairs: Any, said: str, expected: str) -> list[Pair]:
    """Return (gradient, variable) pairs as a list; an iterator can be read only once.

    Args:
        pairs: what should be pairs.
        said: the beginning of the message, such as "apply_gradients received".
        expected: its end.

    Raises:
        InvalidArgumentError: not (gradient, variable) pairs.
    """
    try:
        result = [(gradient, variable) for gradient, variable in pairs]
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{said} {type(pairs).__name__}: expected {expected} ({error})") from error
    for _, variable in result:
        if not isinstance(variable, Variable):
            raise InvalidArgumentError(
                f"{said} a pair whose second part is {type(variable).__name__}: expected {expected}; "
                "gradients come first"
            )
    return result
