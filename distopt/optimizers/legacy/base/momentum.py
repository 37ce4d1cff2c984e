"""Momentum in the legacy family: a hyperparameter that also decides which slots and which formula are used."""

from __future__ import annotations

from typing import Any

from distopt.errors import InvalidArgumentError
from distopt.optimizers.legacy.base.hyperparameters import is_on
from distopt.optimizers.legacy.base.optimizer import Optimizer


class WithMomentum(Optimizer):
    """An optimizer with the hyperparameter ``momentum``; not for users.

    As in tf_keras the constructor decides whether momentum is used: it is if the hyperparameter is above 0, a function
    or a Variable. There a later value is ignored; here one that would have no effect is an error.
    """

    _momentum: bool | None = None

    def _set_hyper(self, name: str, value: Any) -> None:
        if name == "momentum":
            is_used = is_on(type(self).__name__, name, value)
            if self._momentum is None:
                self._momentum = is_used
            elif is_used and not self._momentum:
                raise InvalidArgumentError(
                    f"momentum = {value!r}: {self._name!r} was made without momentum, which would stay without effect. "
                    "Set it in the constructor"
                )
        super()._set_hyper(name, value)
