"""Decoupled weight decay of the Keras 3 family: before the update, ``w ← w - lr λ w``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from distopt.arguments import finite
from distopt.engine.state.family import RuleCall
from distopt.errors import InvalidArgumentError
from distopt.kernels import decay, decayed
from distopt.optimizers.common.rule_updates import DECAYED
from distopt.variables.variable import Variable


class WeightDecay:
    """How one optimizer's weights decay; those without a gradient in a step do not.

    Args:
        owner: the optimizer's class, for messages.
        rate: λ, or None for no decay.
    """

    def __init__(self, owner: str, rate: Any) -> None:
        self._owner = owner
        self._rate = self._checked(rate)
        self._spared: set[Variable] = set()
        self._spared_names: re.Pattern[str] | None = None
        self._step_fraction = 0.0

    @property
    def rate(self) -> float | None:
        """λ, or None."""
        return self._rate

    @rate.setter
    def rate(self, value: float | None) -> None:
        self._rate = self._checked(value)

    def _checked(self, rate: Any) -> float | None:
        return None if rate is None else finite(self._owner, "weight_decay", rate, low=0)

    def spare(self, var_list: Iterable[Variable] | None, var_names: Sequence[str] | None) -> None:
        """Leave weights out of the decay; a second call takes the place of the first.

        Args:
            var_list: these variables.
            var_names: those whose names one of these regular expressions is found in.

        Raises:
            InvalidArgumentError: no variables, no regular expressions.
        """
        variables, patterns = _as_list(var_list, Variable), _as_list(var_names, str)
        for given, kind in ((variables, Variable), (patterns, str)):
            if wrong := [each for each in given if not isinstance(each, kind)]:
                raise InvalidArgumentError(
                    f"exclude_from_weight_decay received {wrong[0]!r} where a {kind.__name__} is expected: "
                    "var_list= takes variables, var_names= regular expressions"
                )
        self._spared = set(variables)
        try:
            self._spared_names = re.compile("|".join(patterns)) if patterns else None
        except re.error as error:
            raise InvalidArgumentError(f"exclude_from_weight_decay(var_names={patterns}): {error}") from error

    def spares(self, variable: Variable) -> bool:
        """Whether a weight is left out."""
        by_name = self._spared_names is not None and self._spared_names.search(variable.name) is not None
        return by_name or variable in self._spared

    def of(self, variable: Variable) -> float:
        """Return λ of one variable."""
        return 0.0 if self._rate is None or self.spares(variable) else self._rate

    def variant_of(self, variable: Variable) -> int:
        """Return DECAYED, or 0 for a variable whose update decays nothing."""
        # Also where the rate is 0: another number may be set later.
        return DECAYED if self._rate is not None and not self.spares(variable) else 0

    def begin_step(self, learning_rate: float) -> None:
        """Compute what the rule takes from each weight in this step."""
        self._step_fraction = learning_rate * (self._rate or 0.0)

    def extended(self, call: RuleCall, variant: int) -> RuleCall:
        """Return the call of a rule, with the decay in it where the variant says so."""
        if not variant & DECAYED:
            return call
        rule, slots, scalars = call
        return decayed(rule), slots, (*scalars, self._step_fraction)


def decay_variable(variable: Variable, fraction: float) -> None:
    """Take a fraction from a variable that no rule updates."""
    if fraction:
        home, start = variable.storage.buffer, variable.storage.start
        spans = [(begin, end - begin) for begin, end in home.parts(start, variable.size)]
        decay(home.flat, np.array(spans, np.int64).reshape(-1, 2), fraction)


def _as_list(given: Any, kind: type) -> list[Any]:
    return [given] if isinstance(given, kind) else list(given or ())
