"""The verdicts on the sum, before anything is written."""

from __future__ import annotations

from typing import Protocol

from distopt.arrays import Array
from distopt.engine.call import StepCall
from distopt.engine.reducers import Reducer
from distopt.engine.state.inspection import Inspection, nonfinite
from distopt.slabs.gradients import Gradients


class Verdict(Protocol):
    """A judgement on the aggregated gradients."""

    @property
    def norm(self) -> float | None:
        """The norm of all of them; None where nobody has looked."""

    @property
    def found(self) -> str:
        """The description of what is not finite, once ``accepts`` has said no."""

    def accepts(self, squares: Array | None) -> bool:
        """Return whether the step goes on; every replica returns the same.

        Args:
            squares: the sum of squares of every variable's gradient, where it was asked for.
        """


class OwnVerdict:
    """Accept finite gradients: of a step that communicates nothing.

    Args:
        gradients: what takes part.
    """

    norm = None

    def __init__(self, gradients: Gradients) -> None:
        self._gradients, self.found = gradients, ""

    def accepts(self, squares: Array | None) -> bool:
        """Return whether all gradients of this replica are finite."""
        self.found = ", ".join(nonfinite(self._gradients))
        return not self.found


def choose_verdict(call: StepCall, gradients: Gradients, reducer: Reducer) -> Verdict | None:
    """Return who judges the sum of this step, or None.

    Args:
        call: the step.
        gradients: what takes part, before it is summed.
        reducer: what sums it.
    """
    training, options = call.engine.training, call.engine.options
    if call.looks:
        strategy, overwritten = call.aggregating_strategy, reducer.overwritten
        return Inspection(strategy, training, gradients, overwritten, by_hook=not options.sums_flat)
    if call.strategy is None and training.skips_nonfinite:
        return OwnVerdict(gradients)
    return None
