"""Who judges the sum before anything is written."""

from __future__ import annotations

from typing import Protocol

from distopt.arrays import Array
from distopt.engine.call import StepCall
from distopt.engine.state.inspection import Inspection, Ranges, is_finite
from distopt.slabs.gradients import Gradients


class Verdict(Protocol):
    """A judgement on the aggregated gradients."""

    @property
    def norm(self) -> float | None:
        """The norm of all of them; None where nobody has looked."""

    def accepts(self, squares: Array | None) -> bool:
        """Return whether the step goes on; every replica returns the same.

        Args:
            squares: the sum of squares of every variable's gradient, where it was asked for.
        """


class NoVerdict:
    """Accept every sum."""

    norm = None

    def accepts(self, squares: Array | None) -> bool:
        """Return True."""
        return True


class OwnVerdict:
    """Accept finite gradients: of a step that communicates nothing.

    Args:
        gradients: what takes part.
    """

    norm = None

    def __init__(self, gradients: Gradients) -> None:
        self._gradients = gradients

    def accepts(self, squares: Array | None) -> bool:
        """Return whether all gradients of this replica are finite."""
        return is_finite(self._gradients)


_NO_VERDICT = NoVerdict()


def choose_verdict(call: StepCall, gradients: Gradients, overwritten: Ranges | None) -> Verdict:
    """Return who judges the sum of this step.

    Args:
        call: the step.
        gradients: what takes part, before it is summed.
        overwritten: the parts of the slab that sums overwrite on this replica; None: all of it.
    """
    training, options = call.engine.training, call.engine.options
    if call.looks:
        return Inspection(call.aggregating_strategy, training, gradients, overwritten, by_hook=not options.sums_flat)
    if call.strategy is None and training.skips_nonfinite:
        return OwnVerdict(gradients)
    return _NO_VERDICT
