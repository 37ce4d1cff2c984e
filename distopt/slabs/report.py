"""The report of a step to those who observe it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distopt.arrays import Array
from distopt.distribute.strategy import Strategy
from distopt.slabs.fitting import Gradient
from distopt.slabs.gradients import Gradients
from distopt.variables.variable import Variable


@dataclass
class StepReport:
    """One step among replicas; read at once, since its memory is the engine's.

    Args:
        strategy: the replicas.
        step: how many calls the optimizer has counted before this one.
        items: of this replica, or None.
        total_items: of all replicas, or None.
        gradients: what takes part: this replica's own gradients, then their aggregate.
        norm: that of the aggregate, where somebody has looked at it; known when everything is updated.
    """

    strategy: Strategy
    step: int
    items: float | None
    total_items: float | None
    gradients: Gradients
    norm: float | None = None

    @property
    def variables(self) -> Sequence[Variable]:
        """The listed variables, in the order of the step."""
        return self.gradients.listing.variables

    @property
    def names(self) -> list[str]:
        """The names of the listed variables, in the order of the step."""
        return [variable.name for variable in self.variables]

    @property
    def by_variable(self) -> list[Gradient | None]:
        """Each listed variable's gradient, None where it takes no part."""
        return self.gradients.by_variable()

    @property
    def parameters(self) -> list[Array]:
        """The listed variables' values, as they are now."""
        return [variable.value for variable in self.variables]
