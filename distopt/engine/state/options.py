"""The options of a step: how gradients are aggregated, transformed and limited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from distopt.aggregators.aggregator import Aggregator
from distopt.aggregators.sum import Sum
from distopt.arguments import checked_hook, checked_transformers, hook_name
from distopt.slabs.fitting import Pair
from distopt.transformers import Clipping
from distopt.variables.variable import Variable

Hook: TypeAlias = "Callable[[list[Pair]], Any]"


class StepOptions:
    """What the user has asked for; set by the optimizer, read by the engine.

    Args:
        aggregator: the user's, in place of the sum; None sums.
        transformers: functions on the aggregated gradients.
        clipping: limits on the aggregated gradients.
        casts: whether a gradient of another dtype is cast to the variable's, or refused.
        merges_rows: whether equal rows of sparse gradients are added before anything looks at them.

    Raises:
        InvalidArgumentError: a hook that can't be called.
    """

    def __init__(
        self,
        aggregator: Hook | None,
        transformers: Sequence[Hook] | None,
        clipping: Clipping,
        *,
        casts: bool,
        merges_rows: bool,
    ) -> None:
        self.aggregator: Hook | None = checked_hook("gradient_aggregator", aggregator)
        self.transformers: list[Hook] = checked_transformers(transformers)
        self.clipping, self.casts, self.merges_rows = clipping, casts, merges_rows
        self._is_aggregator_built = False

    @property
    def sums_flat(self) -> bool:
        """Whether gradients are summed in distopt's own way, and nothing else."""
        return self.aggregator is None or isinstance(self.aggregator, Sum)

    @property
    def lockstep(self) -> bool:
        """Whether all replicas make the same steps, and say so in a header."""
        return bool(getattr(self.aggregator, "lockstep", True))

    @property
    def wire(self) -> np.dtype[Any] | None:
        """The dtype in which sums travel between nodes; None is float32 or wider."""
        return self.aggregator.wire if isinstance(self.aggregator, Sum) else None

    @property
    def hides_rows(self) -> bool:
        """Whether nothing looks at single rows before equal ones are added."""
        return self.merges_rows or not (self.clipping.active or self.transformers)

    def transform_by(self, transformers: Sequence[Hook] | None) -> None:
        """Transform aggregated gradients by these functions from now on."""
        self.transformers = checked_transformers(transformers)

    def build_aggregator(self, variables: Sequence[Variable]) -> None:
        """Let the aggregator make what it keeps for these variables, once."""
        if isinstance(self.aggregator, Aggregator) and not self._is_aggregator_built:
            self.aggregator.build(variables)
            self._is_aggregator_built = True

    def description(self) -> list[str]:
        """Return the options that all replicas must share, as messages show them."""
        parts = []
        if self.aggregator is not None:
            parts.append(f"gradient_aggregator={hook_name(self.aggregator)}")
        if self.transformers:
            parts.append(f"gradient_transformers={list(map(hook_name, self.transformers))}")
        return parts

    def limits(self) -> dict[str, float]:
        """Return the limits that are set, by name."""
        return {name: value for name, value in vars(self.clipping).items() if value is not None}
