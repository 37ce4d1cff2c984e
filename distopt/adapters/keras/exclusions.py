"""Carries what Keras' optimizer excludes from weight decay over to distopt's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from distopt import optimizers
from distopt.adapters.keras.counterparts import parts
from distopt.errors import InvalidArgumentError
from distopt.variables.variable import Variable


class Exclusions:
    """The exclusions of an optimizer of Keras, until ``carry_over`` or ``replace``.

    Args:
        optimizer: what ``DistributedOptimizer`` received; only an optimizer of Keras has something to carry over.
        inner: distopt's optimizer in its place.

    Raises:
        InvalidArgumentError: an optimizer inside a MultiOptimizer excludes weights.
    """

    def __init__(self, optimizer: Any, inner: optimizers.Optimizer) -> None:
        self._target = inner
        while isinstance(self._target, optimizers.LossScaleOptimizer):
            self._target = self._target.inner_optimizer
        self._original: Any = None
        while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer = optimizer.inner_optimizer
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            return
        if any(map(_excludes, parts(optimizer))):
            raise InvalidArgumentError(
                "DistributedOptimizer received a MultiOptimizer of Keras whose parts exclude weights from the decay, "
                "which can't be carried over: build it from optimizers of distopt, and exclude the weights there"
            )
        if _excludes(optimizer):
            self._original = optimizer

    def carry_over(self, theirs: Sequence[Any], ours: Sequence[Variable]) -> None:
        """Exclude those of our variables whose counterparts Keras would exclude."""
        if self._original is not None:
            pairs = zip(theirs, ours, strict=True)
            self._target.exclude_from_weight_decay([our for their, our in pairs if _is_excluded(self._original, their)])

    def replace(self, var_list: Iterable[Any] | None, var_names: Iterable[str] | None) -> None:
        """Exclude other variables: those of Keras in a list, and those in whose paths a pattern is found."""
        paths = [f"^{re.escape(variable.path)}$" for variable in var_list or ()]
        names = [var_names] if isinstance(var_names, str) else var_names or ()
        self._target.exclude_from_weight_decay(var_names=[*paths, *names])
        self._original = None


def _excludes(optimizer: Any) -> bool:
    own = vars(optimizer)  # Keras has no other way to ask
    return bool(own.get("_exclude_from_weight_decay")) or own.get("_exclude_from_weight_decay_pattern") is not None


def _is_excluded(optimizer: Any, variable: Any) -> bool:
    """Return whether an optimizer of Keras excludes a variable: by identity, or by name."""
    own = vars(optimizer)
    pattern = own.get("_exclude_from_weight_decay_pattern")
    by_name = pattern is not None and pattern.search(variable.name) is not None
    return by_name or id(variable) in own.get("_exclude_from_weight_decay", ())
