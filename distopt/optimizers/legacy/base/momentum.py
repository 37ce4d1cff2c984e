"""Momentum in the legacy family: a hyperparameter that also decides which slots and which formula are used."""

from __future__ import annotations

from typing import Any

from distopt.errors import InvalidArgumentError
from distopt.optimizers.legacy.base.hyperparameters import is_on
from distopt.optimizers.legacy.base.optimizer import Optimizer


class WithMomentum(Optimizer):
    """An optimizer with the hyperparameter ``momentum``; not for users.

    The first step decides for good whether momentum is used: it is if the hyperparameter is above 0, a function or a
    Variable. In tf_keras the constructor decides, and a later value is ignored.
    """

    _momentum = False

    def _set_hyper(self, name: str, value: Any) -> None:
        begins = name == "momentum" and not self._momentum and is_on(type(self).__name__, name, value)
        if begins and self._counter is not None and int(self._counter) > 0:
            raise InvalidArgumentError(
                f"momentum = {value!r}: {self._name!r} has stepped without momentum, and has no slots for it. Set it "
                "in the constructor, or before the first step"
            )
        super()._set_hyper(name, value)
        if begins:
            self._momentum = True
            self._engine.note_changed_options()
