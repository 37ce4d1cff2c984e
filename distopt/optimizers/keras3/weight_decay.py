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
from distopt.optimizers.keras3.patterns import compiled, found, warn_of_idle
from distopt.variables.variable import Variable


class WeightDecay:
    """The decay of one optimizer's weights; weights without a gradient in a step do not decay.

    Args:
        owner: the optimizer's class, for messages.
        rate: λ, or None for no decay.
    """

    def __init__(self, owner: str, rate: Any) -> None:
        self._owner = owner
        self.rate: float | None
        """λ, or None."""
        self.agreed: dict[str, float]
        """λ by its name, if there is a λ: replicas must agree on it in every step."""
        self.set(rate)
        self._spared: set[Variable] = set()
        self._spared_names: list[re.Pattern[str]] = []

    def set(self, rate: Any) -> None:
        """Set λ; None means no decay.

        Raises:
            InvalidArgumentError: the value is no finite number of 0 or more.
        """
        self.rate = None if rate is None else finite(self._owner, "weight_decay", rate, low=0)
        self.agreed = {} if self.rate is None else {"weight_decay": self.rate}

    def spare(self, var_list: Iterable[Variable] | None, var_names: Sequence[str] | None) -> None:
        """Leave weights out of the decay; a second call replaces the first.

        Args:
            var_list: variables to leave out.
            var_names: regular expressions; a variable is left out if one of them is found in its name.

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
        self._spared_names = compiled("exclude_from_weight_decay(var_names)", patterns)
        self._spared = set(variables)

    def spares(self, variable: Variable) -> bool:
        """Return whether a weight is left out."""
        return variable in self._spared or found(self._spared_names, variable.name)

    def warn_of_idle(self, name: str, variables: Sequence[Variable]) -> None:
        """Warn of patterns that leave out none of the variables of the optimizer of that name."""
        warn_of_idle(
            f"{name!r}, exclude_from_weight_decay(var_names)",
            [pattern.pattern for pattern in self._spared_names],
            [variable.name for variable in variables],
            re.search,
            "so they leave none out of the decay. A pattern is to be found in a name",
        )

    def variant_of(self, variable: Variable) -> int:
        """Return DECAYED, or 0 for a variable that does not decay."""
        # Also where the rate is 0: another number may be set later.
        return DECAYED if self.rate is not None and not self.spares(variable) else 0

    def extended(self, call: RuleCall, learning_rate: float) -> RuleCall:
        """Return the call of a rule, extended by the decay of a step."""
        rule, slots, scalars = call
        return decayed(rule), slots, (*scalars, learning_rate * (self.rate or 0.0))


def decay_variable(variable: Variable, fraction: float) -> None:
    """Take a fraction from a variable that is updated by a method, not by a rule."""
    if fraction and variable.storage.buffer is None:  # no optimizer was built for it
        variable.assign(variable.value - variable.value * variable.dtype.type(fraction))
    elif fraction:
        buffer, start = variable.storage.allocated_buffer, variable.storage.start
        spans = [(begin, end - begin) for begin, end in buffer.parts(start, variable.size)]
        decay(buffer.flat, np.array(spans, np.int64).reshape(-1, 2), fraction)


def _as_list(given: Any, kind: type) -> list[Any]:
    return [given] if isinstance(given, kind) else list(given or ())
