"""Clipping and transformers of the legacy family as attributes: they exclude each other, as upstream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distopt.aggregators.sum import Sum
from distopt.engine.state.options import Hook
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.base import BaseOptimizer
from distopt.slabs.fitting import Pair


class Options(BaseOptimizer):
    """``clipvalue``, ``clipnorm``, ``global_clipnorm``, ``gradient_transformers`` and ``gradient_aggregator``."""

    _given_aggregator: Hook | None

    def _refuse_limit(self, name: str, value: float) -> None:
        if self._engine.options.transformers:
            raise InvalidArgumentError(
                f"`{name}` cannot be set when `gradient_transformers` is set. Instead, clip in one of the transformers"
            )

    @property
    def gradient_aggregator(self) -> Hook | None:
        """The user's aggregator, or None for the sum."""
        return self._given_aggregator

    def _aggregate_gradients(self, grads_and_vars: list[Pair]) -> Any:
        """Return the aggregated gradients; a subclass can override this in place of taking a hook."""
        return (self._given_aggregator or Sum())(grads_and_vars)

    @property
    def gradient_transformers(self) -> list[Hook]:
        """The user's transformers, in order."""
        return self._engine.options.transformers

    @gradient_transformers.setter
    def gradient_transformers(self, value: Sequence[Hook] | None) -> None:
        if value and self._engine.options.clipping.active:
            raise InvalidArgumentError(
                "`gradient_transformers` cannot be set when `clipvalue`, `clipnorm` or `global_clipnorm` is set. "
                "Clip in one of the transformers"
            )
        self._engine.options.transform_by(value)
        self._engine.forget_digests()  # they have the transformers in it

    def _set_clipping(self, clipnorm: float | None, clipvalue: float | None, global_clipnorm: float | None) -> None:
        if clipnorm is not None and global_clipnorm is not None:
            raise InvalidArgumentError(
                f"Cannot accept both `clipnorm` and `global_clipnorm`, received: {clipnorm}, {global_clipnorm}"
            )
        self.clipvalue, self.clipnorm, self.global_clipnorm = clipvalue, clipnorm, global_clipnorm
