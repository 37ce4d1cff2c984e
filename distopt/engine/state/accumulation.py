"""Gradient accumulation: micro-steps add up locally, and the last of them becomes the step."""

from __future__ import annotations

import math

import numpy as np

from distopt.arrays import Array, wide_dtype
from distopt.errors import InvalidArgumentError
from distopt.kernels import add_tree
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import DENSE, Listing
from distopt.variables.variable import Variable


class Accumulation:
    """The sums of this replica's micro-steps so far; nothing of them is sent before the last one.

    Args:
        steps: how many micro-steps make a step, 2 or more.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.sums: dict[Variable, Variable] = {}
        """The accumulator of each trained variable; every replica has its own."""
        self.exist: dict[Variable, Variable] = {}
        """Of each trained variable, 1 where a micro-step has brought a gradient: the sum of zeros is one too."""
        self.items = Variable(np.float64(0), name="accumulated_items", trainable=False)
        """Of the micro-steps before this one; NaN where they gave none."""

    def make_sum(self, variable: Variable, name: str) -> Variable:
        """Make the accumulator of a variable: float32 for one of 16 bits."""
        total = Variable(np.zeros(variable.shape, wide_dtype(variable.dtype)), name=name, trainable=False)
        self.sums[variable] = total
        self.exist[variable] = Variable(np.uint8(0), name=f"{name}_exists", trainable=False)
        return total

    def is_last(self, counter: Variable) -> bool:
        """Return whether the micro-step that ``counter`` counts from 0 makes a step."""
        return int(counter.storage.array) % self.steps == self.steps - 1

    def add_micro_step(self, counter: Variable, gradients: Gradients) -> bool:
        """Add up one micro-step; after the last one the slab holds the sum of all, and the step goes on.

        Args:
            counter: of the micro-steps that were done.
            gradients: those of this micro-step; sparse ones become dense, and with the last one the sums lie there.

        Returns:
            Whether it was the last one.

        Raises:
            InvalidArgumentError: a variable that stands twice, items in some micro-steps only, variables that the last
                micro-step leaves out.
        """
        slab, kinds, items = gradients.slab, gradients.kinds, gradients.items
        self._check(counter, gradients.listing, items)
        is_last = self.is_last(counter)
        if is_last:
            self._check_nothing_is_left_out(gradients.listing)
            gradients.move_wide()
        for k in gradients.entries:
            variable, rows = slab.variables[k], gradients.sparse.pop(k, None)
            total, exists = self.sums[variable].storage.array, self.exist[variable].storage.array
            gradient = slab.views[k] if rows is None else rows.astype(total.dtype).to_dense()
            if not is_last and kinds[k]:
                _add(total, gradient, total)
                exists[...] = 1
            elif kinds[k]:
                _add(total, gradient, gradients.views[k])
                kinds[k] = DENSE
            elif is_last and exists:
                gradients.views[k][...] = total
                kinds[k] = DENSE
        if not is_last:
            self.items.storage.array += math.nan if items is None else items
        return is_last

    def _check(self, counter: Variable, listing: Listing, items: float | None) -> None:
        if listing.has_duplicates:
            raise InvalidArgumentError("gradient_accumulation_steps: a variable stands twice in the list; give it once")
        is_first = int(counter.storage.array) % self.steps == 0
        if not is_first and math.isnan(float(self.items.storage.array)) != (items is None):
            raise InvalidArgumentError(
                f"items={items!r} in micro-step {int(counter.storage.array) % self.steps} of {self.steps}, and items "
                f"were {'given' if items is None else 'not given'} in those before: give them in all or in none"
            )

    def _check_nothing_is_left_out(self, listing: Listing) -> None:
        listed = set(listing.variables)
        left = [v.name for v, exists in self.exist.items() if v not in listed and exists.storage.array]
        if left:
            raise InvalidArgumentError(
                f"the last of {self.steps} micro-steps lists no {left}, for which gradients have been accumulated: "
                "list all variables in each micro-step, with None for those that have no gradient"
            )

    def total_items(self, items: float | None) -> float | None:
        """Return the items of all micro-steps, ``items`` being those of the last."""
        return None if items is None else float(self.items.storage.array) + items

    def go_on(self, counter: Variable) -> None:
        """Go on from sums that were made elsewhere, without items; only those that are not zero are known to exist."""
        for variable, total in self.sums.items():
            self.exist[variable].storage.array[...] = total.storage.array.any()
        self.items.storage.array[...] = math.nan if int(counter.storage.array) % self.steps else 0

    def clear(self) -> None:
        """Begin anew."""
        self.items.storage.array[...] = 0
        for each in (*self.sums.values(), *self.exist.values()):
            each.storage.array[...] = 0


def _add(total: Array, gradient: Array, out: Array) -> None:
    """Add two arrays; the kernel is faster where it can tell that the sum replaces one of them."""
    rows = [total.reshape(-1), gradient.reshape(-1)]
    place = next((r for r, array in enumerate((total, gradient)) if array is out), None)
    add_tree(rows, out.reshape(-1) if place is None else rows[place])
