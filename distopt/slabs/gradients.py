"""The gradients of one step: which exist, which are sparse, over how many items, and whether they are summed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from distopt.arrays import Array
from distopt.errors import InvalidArgumentError
from distopt.slabs.fitting import Gradient, Pair, fit
from distopt.slabs.listing import ABSENT, DENSE, SPARSE, Listing
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable


class SumsMeanwhile(Protocol):
    """A stream that sums gradients while they come."""

    def wait(self) -> None:
        """Return when everything is summed."""


class Gradients:
    """The gradients that this replica brings to one step, and those that take part in the step.

    Args:
        listing: the list of the step; dense gradients lie in the views of its slab.
        communicates: whether the step is one of several replicas, which agree on it.
    """

    def __init__(self, listing: Listing, *, communicates: bool = False) -> None:
        self.listing, self.slab = listing, listing.slab
        self.views: Sequence[Array] = self.slab.views
        """The dense gradients as they lie now: where 16-bit ones are float32, ``slab.wide_views``."""
        self.kinds = bytearray(listing.blank)
        """For each entry of the slab ABSENT, DENSE or SPARSE: what this replica has; or UNLISTED."""
        self.sparse: dict[int, IndexedSlices] = {}
        """The sparse gradients, by entry."""
        self.entries: Sequence[int] = listing.entries
        """The entries that take part, in the order of the list: those that exist on any replica."""
        self.items: float | None = None
        """The number of items that this replica's summed loss is over, or None."""
        self.stream: SumsMeanwhile | None = None
        """The stream that sums the dense gradients while they come, or None."""
        self.communicates = communicates

    @property
    def are_summed(self) -> bool:
        """Return whether the dense gradients have been summed while they came."""
        return self.stream is not None

    @property
    def lie_wide(self) -> bool:
        """Return whether dense gradients of 16 bits lie in float32: until their sum is divided and rounded."""
        return self.views is not self.slab.views

    def move_wide(self) -> None:
        """Let 16-bit gradients lie in float32 from now on; who calls it puts them there."""
        if self.slab.wide:
            self.views = self.slab.wide_views

    def widen(self) -> None:
        """Bring 16-bit gradients to where they are float32."""
        if not self.lie_wide:
            self.move_wide()
            for k in self.dense:
                if self.views[k] is not self.slab.views[k]:
                    self.views[k][...] = self.slab.views[k]

    def narrow(self) -> None:
        """Round what lies in float32 to the 16 bits of its variables."""
        if self.lie_wide:
            with np.errstate(over="ignore"):  # as in the kernels
                for k in self.dense:
                    if self.views[k] is not self.slab.views[k]:
                        self.slab.views[k][...] = self.views[k]
            self.note_narrow()

    def note_narrow(self) -> None:
        """Note that what lay in float32 has been rounded."""
        self.views = self.slab.views

    def part(self, entries: Sequence[int]) -> Gradients:
        """Return some of the entries, in the same memory."""
        some = Gradients(self.listing)
        some.entries = entries
        some.sparse = {k: self.sparse[k] for k in entries if k in self.sparse}
        return some

    def take_part(self, kinds: bytearray) -> list[str]:
        """Leave out what exists on no replica; what exists on others only counts as zero here.

        Args:
            kinds: for each entry what the replicas have agreed on.

        Returns:
            The names of the variables that are left out.
        """
        if kinds is not self.kinds:
            for k, (mine, wanted) in enumerate(zip(self.kinds, kinds, strict=True)):
                if wanted == DENSE and mine != DENSE:
                    rows = self.sparse.pop(k, None)
                    if not self.are_summed:  # a sum has everybody's already
                        self.views[k][...] = 0 if rows is None else rows.to_dense()
                elif wanted == SPARSE and mine == ABSENT:
                    self.sparse[k] = _no_rows(self.slab.variables[k])
        if ABSENT not in kinds:
            return []
        listed, variables = self.listing.entries, self.slab.variables
        self.entries = [k for k in listed if kinds[k] != ABSENT]
        return [variables[k].name for k in listed if kinds[k] == ABSENT]

    @property
    def dense(self) -> Sequence[int]:
        """The entries whose gradients lie in the slab, in its order."""
        if not self.sparse and self.entries is self.slab.all_entries:
            return self.entries
        return sorted(k for k in self.entries if k not in self.sparse)

    def pairs(self) -> list[Pair]:
        """Return the list of (gradient, variable) that hooks see."""
        return [(self.sparse.get(k, self.views[k]), self.slab.variables[k]) for k in self.entries]

    def copied_pairs(self) -> list[Pair]:
        """Return the list that hooks see, in memory of its own: what a hook keeps does not change later."""
        views = self.views
        return [(self.sparse[k] if k in self.sparse else views[k].copy(), self.slab.variables[k]) for k in self.entries]

    def by_variable(self) -> list[Gradient | None]:
        """Return each listed variable's gradient, None where it takes no part."""
        part = set(self.entries)
        return [self.sparse.get(k, self.views[k]) if k in part else None for k in self.listing.entries]

    def replace_from_hook(self, pairs: Iterable[Pair], hook: str) -> None:
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


def _no_rows(variable: Variable) -> IndexedSlices:
    no_rows = np.empty((0, *variable.shape[1:]), variable.dtype)
    return IndexedSlices(no_rows, np.empty(0, np.int64), variable.shape)
