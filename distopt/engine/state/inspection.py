"""A look at the sum of the gradients before anything is updated: is it finite? Its norm, for a receipt.

The verdict is every replica's alike. Who brought what is not finite is found by a second look, only then.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from distopt.arrays import Array
from distopt.distribute.agreement.header import Call, agree, exchange_bytes
from distopt.distribute.strategy import Strategy
from distopt.engine.state.training_state import TrainingState
from distopt.errors import NonFiniteGradientError
from distopt.kernels import tree_sum
from distopt.slabs.gradients import Gradients

Ranges: TypeAlias = Mapping[np.dtype[Any], Sequence[tuple[int, int]]]
"""For each dtype, parts of the slab."""

Flats: TypeAlias = Mapping[np.dtype[Any], Array]
"""For each dtype, a flat buffer."""

_BROUGHT, _SUMMED = 1, 2


def nonfinite(gradients: Gradients) -> list[str]:
    """Return the variables whose gradients are not finite on this replica, of those that take part."""
    slab, sparse = gradients.slab, gradients.sparse
    arrays = {k: sparse[k].values if k in sparse else slab.views[k] for k in gradients.entries}
    return [repr(slab.variables[k].name) for k, array in arrays.items() if not np.isfinite(array).all()]


class Inspection:
    """One step's look at the gradients.

    Args:
        strategy: the replicas.
        training: whose step it is.
        gradients: what takes part.
        overwritten: the parts of the slab that sums overwrite on this replica; None: all of it.
        by_hook: whether a hook makes the sum: its results may differ between replicas, and the verdict must not.
    """

    def __init__(
        self,
        strategy: Strategy,
        training: TrainingState,
        gradients: Gradients,
        overwritten: Ranges | None,
        *,
        by_hook: bool,
    ) -> None:
        self._strategy, self._training, self._gradients, self._ranges = strategy, training, gradients, overwritten
        self._by_hook = by_hook
        self.norm = math.nan
        """Of the sum of the gradients, after its division and before any clipping by norm."""
        self.found = ""
        """The description of what is not finite, and of whom."""
        self._brought = {**gradients.slab.flats, **(gradients.slab.wide if gradients.lie_wide else {})}
        # What this replica's sums overwrite can be looked at only now: one part in R of a gradient, mostly.
        early = list(gradients.sparse) if gradients.are_summed else gradients.entries
        scale = training.loss_scale
        names = strategy.checks.on_nonfinite is not None or (scale is not None and scale.is_at_end)
        self._spoilt = {k for k in early if names and not self._is_finite(k, self._brought, overwritten=True)}

    def accepts(self, squares: Array | None) -> bool:
        """Judge by the sums of squares of every variable's gradient; return whether the step goes on.

        Raises:
            NonFiniteGradientError: a sum is not finite, on all replicas.
        """
        assert squares is not None  # somebody looks
        if self._by_hook:
            communicator = self._strategy.communicator
            agree(communicator, Call("look at what gradient_aggregator returned"))
            rows = [np.frombuffer(row) for row in exchange_bytes(communicator, squares.tobytes())]
            squares = np.max(rows, axis=0).astype(np.float64, copy=False)
        entries = list(self._gradients.entries)
        self.norm = math.sqrt(total) if (total := tree_sum(squares[entries])) == total else math.nan
        suspects = [k for k in entries if not math.isfinite(squares[k])]
        leaves_out = self._training.skips_nonfinite
        if not suspects or (self._strategy.checks.on_nonfinite is None and not leaves_out):
            return True
        found = self.found = self._look_closer(suspects)
        if not found or leaves_out:  # squares of large float64 numbers overflow where the numbers have not
            return not found
        text = f"step {self._training.calls}: the sum of the gradients is not finite: {found}. Nothing was updated"
        if self._strategy.checks.on_nonfinite == "raise":
            raise NonFiniteGradientError(
                f"{text}. Look at that replica's batch and at the learning rate; clip gradients, or leave such steps "
                "out with Checks(on_nonfinite='skip')"
            )
        if self._strategy.replica_index == 0:
            warnings.warn(f"{text}; the step is left out", stacklevel=2)
        return False

    def _look_closer(self, suspects: Sequence[int]) -> str:
        mine = bytes(
            (k in self._spoilt or not self._is_finite(k, self._brought, overwritten=False)) * _BROUGHT
            | (not self._is_finite(k, self._gradients.slab.flats, overwritten=True)) * _SUMMED
            for k in suspects
        )
        table = np.array([list(row) for row in exchange_bytes(self._strategy.communicator, mine)], np.uint8)
        return "; ".join(
            f"{self._gradients.slab.variables[k].name!r}: {self._who(column)}"
            for k, column in zip(suspects, table.T.tolist(), strict=True)
            if any(column)
        )

    def _is_finite(self, k: int, flats: Flats, *, overwritten: bool) -> bool:
        """Return whether an entry is finite where this replica's sums overwrite it, or where they do not."""
        if k in self._gradients.sparse:  # replaced by the rows of all replicas
            return not overwritten or bool(np.isfinite(self._gradients.sparse[k].values).all())
        return all(np.isfinite(piece).all() for piece, is_sum in self._pieces(k, flats) if is_sum is overwritten)

    def _pieces(self, k: int, flats: Flats) -> list[tuple[Array, bool]]:
        """Cut an entry of flat buffers into what this replica has brought and the sums that it made."""
        slab = self._gradients.slab
        flat, begin = flats[slab.dtypes[k]], slab.starts[k]
        end = begin + slab.variables[k].size
        ranges = [(begin, end)] if self._ranges is None else self._ranges.get(slab.dtypes[k], [])
        pieces, position = [], begin
        for first, last in sorted(ranges):
            first, last = max(first, position), min(last, end)
            if first < last:
                pieces += [(flat[position:first], False), (flat[first:last], True)]
                position = last
        return [*pieces, (flat[position:end], False)]

    def _who(self, column: Sequence[int]) -> str:
        brought = [r for r, bits in enumerate(column) if bits & _BROUGHT]
        if brought:
            return f"replica{'s' * (len(brought) > 1)} {', '.join(map(str, brought))}"
        overflow = "an overflow of the sum of finite gradients"
        if not self._gradients.are_summed:
            return overflow
        # A streamed sum came before any look: these replicas' own gradients are gone, the others' are finite.
        summed = " or ".join(str(r) for r, bits in enumerate(column) if bits & _SUMMED)
        return f"replica {summed}, or {overflow}"
