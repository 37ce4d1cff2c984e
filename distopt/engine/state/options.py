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
    """The options that the user has chosen; set by the optimizer, read by the engine.

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
        self.sums_flat = self.aggregator is None or isinstance(self.aggregator, Sum)
        """True where gradients are summed in distopt's own way, and nothing else."""
        self.lockstep = bool(getattr(self.aggregator, "lockstep", True))
        """True where all replicas make the same steps, and say so in a header."""
        self._limiter: Hook | None = None
        self._is_aggregator_built = False
        self._note_change()

    def _note_change(self) -> None:
        self.limits_gradients = self.clipping.active or self._limiter is not None
        """True where any limit on the gradients is set."""
        self.limits = self.clipping if self._limiter is None else Clipping()
        """The limits that distopt applies: none where a method of the user's does so."""
        self.on_sum: list[Hook] = self.transformers if self._limiter is None else [self._limiter, *self.transformers]
        """The functions on the aggregated gradients, in order."""
        self.is_plain = self.sums_flat and not self.on_sum and not self.limits_gradients
        """True where gradients are summed, and no more."""
        limits = {name: value for name, value in vars(self.clipping).items() if value is not None}
        self.agreed: dict[str, float] = limits
        """The limits that are set, by name: replicas must agree on them in every step."""

    @property
    def wire(self) -> np.dtype[Any] | None:
        """The dtype in which sums travel between nodes; None is float32 or wider."""
        return self.aggregator.wire if isinstance(self.aggregator, Sum) else None

    @property
    def hides_rows(self) -> bool:
        """Return whether nothing looks at single rows before equal ones are added."""
        return self.merges_rows or not (self.limits_gradients or self.on_sum)

    def limit_by(self, name: str, value: float | None) -> None:
        """Limit aggregated gradients by ``clipvalue``, ``clipnorm`` or ``global_clipnorm`` from now on."""
        setattr(self.clipping, name, value)
        self._note_change()

    def limit_with(self, limiter: Hook | None) -> None:
        """Let a method of the user's limit aggregated gradients from now on; None: distopt does so."""
        self._limiter = limiter
        self._note_change()

    def transform_by(self, transformers: Sequence[Hook] | None) -> None:
        """Transform aggregated gradients by these functions from now on."""
        self.transformers = checked_transformers(transformers)
        self._note_change()

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
