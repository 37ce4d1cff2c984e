"""The names that optimizers written for Keras 2.11 to 2.15 use: ``update_step(self, gradient, variable)`` tells them.

There the name comes first, the learning rate is made by ``_build_learning_rate``, and slots have other arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distopt.aggregators.sum import Sum
from distopt.optimizers.common.hyperparameter import Hyperparameter
from distopt.optimizers.keras3.methods import Methods
from distopt.optimizers.schedules import LearningRateSchedule
from distopt.optimizers.schedules.serialization import serialize
from distopt.slabs.fitting import Pair
from distopt.variables.minimizing import compute_gradients
from distopt.variables.variable import Variable


class CallableList(list[Variable]):
    """A list that returns itself when it is called: ``optimizer.variables()`` was a method once."""

    def __call__(self) -> CallableList:
        """Return the list."""
        return self


class Former(Methods):
    """The names of Keras 2.11 to 2.15; not for users."""

    _distopt_is_former = False
    """True in an optimizer that was written for Keras 2.11 to 2.15."""

    def _build_learning_rate(self, learning_rate: Any) -> Any:
        """Return the source of a learning rate: a Variable for a number; a schedule or a function as it is."""
        return learning_rate if callable(learning_rate) else Hyperparameter(float(learning_rate), "learning_rate")

    @property
    def _current_learning_rate(self) -> Any:
        """Return the learning rate of the step."""
        return self.learning_rate

    @property
    def lr(self) -> Any:
        """Return the learning rate of an optimizer of Keras 2.11 to 2.15; else what the user has set by this name."""
        if self._distopt_is_former:
            return self.learning_rate
        if "lr" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute 'lr': it is called learning_rate")
        return self.__dict__["lr"]

    @lr.setter
    def lr(self, value: Any) -> None:
        if self._distopt_is_former:
            self.learning_rate = value
        else:
            self.__dict__["lr"] = value

    @lr.deleter
    def lr(self) -> None:
        self.__dict__.pop("lr", None)

    @property
    def variables(self) -> list[Variable]:
        """Return all state: iteration, learning_rate (where it is a number), then slots; no parameters."""
        return CallableList(super().variables)

    @property
    def _index_dict(self) -> dict[Any, int]:
        """Return the index of each trained variable, by ``_var_key``."""
        return self._distopt_indices

    def _build_index_dict(self, var_list: Sequence[Variable]) -> None:
        """Do nothing: ``build`` has noted the indices."""

    def add_variable_from_reference(
        self,
        reference_variable: Variable | None = None,
        name: str | None = None,
        initializer: Any = "zeros",
        initial_value: Any = None,
        **former: Any,
    ) -> Variable:
        """Make a slot: a variable with shape and dtype of a trained variable.

        Args:
            reference_variable: the trained variable.
            name: the slot's name; the variable is called ``{optimizer}/{reference}_{name}``.
            initializer: ``"zeros"``, ``"ones"``, a function of (shape, dtype), or an array.
            initial_value: an array in place of an initializer, as in Keras 2.11 to 2.15.
            **former: ``model_variable``, ``variable_name`` and ``shape``, as in Keras 2.11 to 2.15.
        """
        variable = former.pop("model_variable", reference_variable)
        label = former.pop("variable_name", name)
        shape = former.pop("shape", None)
        if former or not isinstance(variable, Variable):
            raise TypeError(
                f"add_variable_from_reference received {variable!r} as the trained variable, and {sorted(former)}: "
                "expected a Variable, and reference_variable, name, initializer (Keras 3) or model_variable, "
                "variable_name, shape, initial_value (Keras 2.11 to 2.15)"
            )
        first = initializer if initial_value is None else np.asarray(initial_value)
        shape = shape if initial_value is None else np.shape(first)  # which is that of the value, as in Keras
        if shape is None or tuple(shape) == variable.shape:
            return super().add_variable_from_reference(variable, label, first)
        path = self._distopt_path(variable, label or "slot")
        return self.add_variable(shape, initializer=first, dtype=variable.dtype, name=path)

    def compute_gradients(
        self, loss: Any, var_list: Sequence[Variable] | Callable[[], Sequence[Variable]], tape: Any = None
    ) -> list[Pair]:
        """Return (gradient, variable) pairs of a loss, as ``minimize`` of Keras 2.11 to 2.15 computes them."""
        return list(compute_gradients(loss, var_list, tape=tape))

    def aggregate_gradients(self, grads_and_vars: Sequence[Pair]) -> Any:
        """Return the sum of gradients over replicas; a class of Keras 2.11 to 2.15 may override this method."""
        return Sum()(list(grads_and_vars))

    def _serialize_hyperparameter(self, hyperparameter: Any) -> Any:
        """Return a number or a schedule as a config holds it."""
        if isinstance(hyperparameter, LearningRateSchedule):
            return serialize(hyperparameter)
        if isinstance(hyperparameter, Variable):
            return hyperparameter.numpy()[()].item()
        return hyperparameter() if callable(hyperparameter) else hyperparameter

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs, as JSON can hold them; hooks are not part of it."""
        config = super().get_config()
        if not self._distopt_is_former:
            return config
        kept = {name: value for name, value in config.items() if name not in _UNKNOWN_THEN}
        return kept | {"jit_compile": False, "is_legacy_optimizer": False}


_UNKNOWN_THEN = ("learning_rate", "loss_scale_factor", "gradient_accumulation_steps")
"""Arguments that the base class of Keras 2.11 to 2.15 did not have."""
