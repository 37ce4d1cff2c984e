"""Decoupled weight decay of the Keras 3 family: before the update, ``w ← w - lr λ w``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from distopt.arguments import finite
from distopt.errors import InvalidArgumentError
from distopt.kernels import decay
from distopt.optimizers.common.rule_updates import DECAYED, RuleUpdates
from distopt.variables.variable import Variable


class WeightDecay(RuleUpdates):
    """The part of the Keras 3 optimizer that decays weights; those without a gradient in a step do not decay."""

    name: str
    built: bool
    _weight_decay: float | None
    _spared: set[Variable]
    _spared_names: re.Pattern[str] | None

    def _set_weight_decay(self, value: Any) -> None:
        self._weight_decay = self._checked_decay(value)
        self._spared, self._spared_names = set(), None

    def _checked_decay(self, value: Any) -> float | None:
        return None if value is None else finite(type(self).__name__, "weight_decay", value, low=0)

    @property
    def weight_decay(self) -> float | None:
        """λ, or None; another number can be set at any time."""
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, value: float | None) -> None:
        if self.built and (value is None) != (self._weight_decay is None):
            raise InvalidArgumentError(
                f"weight_decay={value!r}: optimizer {self.name!r} was built {'with' if value is None else 'without'} "
                "weight decay. Set a number (0 for none) when you make it"
            )
        self._weight_decay = self._checked_decay(value)

    def exclude_from_weight_decay(
        self, var_list: Iterable[Variable] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Leave weights out of the decay; a second call takes the place of the first.

        Args:
            var_list: these variables.
            var_names: those whose names one of these regular expressions is found in.

        Raises:
            InvalidArgumentError: the optimizer is built already (Keras 3 means to say so, and does not);
                no variables, no regular expressions.

        Example:
            >>> import distopt
            >>> w, bias = distopt.Variable([1.0], name="w"), distopt.Variable([1.0], name="bias")
            >>> sgd = distopt.optimizers.SGD(learning_rate=1.0, weight_decay=0.5)
            >>> sgd.exclude_from_weight_decay(var_names=["bias"])
            >>> _ = sgd.apply_gradients([([0.0], w), ([0.0], bias)])
            >>> float(w[0]), float(bias[0])
            (0.5, 1.0)
        """
        if self.built:
            raise InvalidArgumentError(
                f"exclude_from_weight_decay: optimizer {self.name!r} is built already; call it before the first step"
            )
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

    def _is_spared(self, variable: Variable) -> bool:
        by_name = self._spared_names is not None and self._spared_names.search(variable.name) is not None
        return by_name or variable in self._spared

    def _weight_decay_of(self, variable: Variable) -> float:
        """λ of one variable."""
        return 0.0 if self._weight_decay is None or self._is_spared(variable) else self._weight_decay

    def _variant_of(self, variable: Variable) -> int:
        # Also where it is 0: another number may be set later.
        decays = self._weight_decay is not None and not self._is_spared(variable)
        return super()._variant_of(variable) | (DECAYED if decays else 0)

    def _decay(self, variable: Variable, learning_rate: Any) -> None:
        """Decay a variable that no rule updates."""
        rate = self._weight_decay_of(variable) * float(learning_rate)
        if rate:
            home, start = variable.storage.buffer, variable.storage.start
            spans = [(begin, end - begin) for begin, end in home.parts(start, variable.size)]
            decay(home.flat, np.array(spans, np.int64).reshape(-1, 2), rate)


def _as_list(given: Any, kind: type) -> list[Any]:
    return [given] if isinstance(given, kind) else list(given or ())
