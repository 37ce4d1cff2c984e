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
        self.rate: float | None
        """λ, or None."""
        self.agreed: dict[str, float]
        """λ by its name, where there is one: replicas must agree on it in every step."""
        self.set(rate)
        self._spared: set[Variable] = set()
        self._spared_names: re.Pattern[str] | None = None

    def set(self, rate: Any) -> None:
        """Decay by this λ from now on; None: not at all.

        Raises:
            InvalidArgumentError: no finite number, 0 or more.
        """
        self.rate = None if rate is None else finite(self._owner, "weight_decay", rate, low=0)
        self.agreed = {} if self.rate is None else {"weight_decay": self.rate}

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
        return 0.0 if self.rate is None or self.spares(variable) else self.rate

    def variant_of(self, variable: Variable) -> int:
        """Return DECAYED, or 0 for a variable whose update decays nothing."""
        # Also where the rate is 0: another number may be set later.
        return DECAYED if self.rate is not None and not self.spares(variable) else 0

    def extended(self, call: RuleCall, learning_rate: float) -> RuleCall:
        """Return the call of a rule, with the decay of a step in it."""
        rule, slots, scalars = call
        return decayed(rule), slots, (*scalars, learning_rate * (self.rate or 0.0))


def decay_variable(variable: Variable, fraction: float) -> None:
    """Take a fraction from a variable that no rule updates."""
    if fraction:
        home, start = variable.storage.buffer, variable.storage.start
        spans = [(begin, end - begin) for begin, end in home.parts(start, variable.size)]
        decay(home.flat, np.array(spans, np.int64).reshape(-1, 2), fraction)


def _as_list(given: Any, kind: type) -> list[Any]:
    return [given] if isinstance(given, kind) else list(given or ())
