"""The methods of Keras 3 that an optimizer of the user's may override: what stands at their place where it does not.

``Optimizer._distopt_update`` calls an override at its place and in its order; a step without overrides calls none.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arrays import Array
from distopt.distribute.collectives import num_replicas
from distopt.distribute.strategy import get_strategy
from distopt.engine.state.options import Hook
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.values import own_value
from distopt.optimizers.keras3.options import Options
from distopt.optimizers.keras3.overwriting import Overwriting, overwrite, refuse_streamed, take_out
from distopt.optimizers.keras3.stateless import step_on_values
from distopt.optimizers.keras3.weight_decay import decay_variable
from distopt.slabs.fitting import Pair
from distopt.slabs.gradients import Gradients
from distopt.transformers import Clipping, limited
from distopt.variables.values import value_of
from distopt.variables.variable import Variable


class Methods(Options):
    """The methods of an optimizer that see the aggregate, or this replica's gradients before it; not for users."""

    _distopt_overwriting: Overwriting | None = None
    """The gradients of this step that overwrite their variables."""

    def update_step(self, gradient: Any, variable: Variable, learning_rate: Any) -> None:
        """Update one variable."""
        raise NotImplementedError

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Variable] | None = None) -> Variable:
        """Do one step with gradients and variables as two lists."""
        raise NotImplementedError

    def stateless_apply(
        self, optimizer_variables: Sequence[Any], grads: Sequence[Any], trainable_variables: Sequence[Any]
    ) -> tuple[list[Array], list[Array]]:
        """Do a step on values: neither the optimizer nor its variables are changed.

        With several replicas, gradients are summed as in any step.

        Args:
            optimizer_variables: values in the order of ``variables``; not changed.
            grads: gradients in the order of the variables that the optimizer was built for.
            trainable_variables: values of these variables; not changed.

        Returns:
            The new values of the trainable variables and of the optimizer's.

        Raises:
            InvalidArgumentError: the optimizer is not built; lists of other lengths or shapes.

        Example:
            >>> import distopt
            >>> w = distopt.Variable([1.0])
            >>> sgd = distopt.optimizers.SGD(0.5)
            >>> sgd.build([w])
            >>> (new,), (iteration, rate) = sgd.stateless_apply([0, 0.5], [[1.0]], [[3.0]])
            >>> new, int(iteration), w.numpy()
            (array([2.5], dtype=float32), 1, array([1.], dtype=float32))

        Source: Keras 3 ``keras.optimizers.Optimizer.stateless_apply``.
        """
        return step_on_values(self, self._trainable_variables, optimizer_variables, grads, trainable_variables)

    # Before the sum

    def _distopt_go_through_apply(self, pairs: list[Pair], aggregates: bool, items: float | None) -> None:
        """Call the user's ``apply``, and remember how the step that it asks for is to be done."""
        if not pairs:
            self._distopt_do_step(pairs, aggregates=aggregates, items=items)  # which refuses an empty list
            return
        before, self.__dict__["_distopt_step_is"] = self._distopt_step_is, (aggregates, items)
        try:
            self.apply(tuple(_as_given(*pair) for pair in pairs), tuple(variable for _, variable in pairs))
        finally:
            self.__dict__["_distopt_step_is"] = before

    _distopt_step_is: tuple[bool, float | None] = True, None
    """True where the step that ``apply`` is asked for aggregates; and its items."""

    def _distopt_refuse_streaming(self, variables: Sequence[Variable]) -> None:
        if not self._distopt_hooks.streams:
            raise InvalidArgumentError(
                f"begin_step: {type(self).__name__} overrides apply, apply_gradients or a filter of gradients, which "
                "see all gradients of a replica together: use apply_gradients"
            )
        # Alone nothing is summed meanwhile; among several, whether it is must not decide whether a program works.
        for variable in variables if num_replicas() > 1 and self._distopt_may_overwrite else ():
            if self._overwrite_variable_with_gradient(variable):
                refuse_streamed(variable)

    def _filter_empty_gradients(
        self,
        grads: Sequence[Any],
        vars: Sequence[Variable],
    ) -> tuple[list[Any], list[Variable]]:
        """Return gradients that are not None, and their variables; warn of the others."""
        missing = [variable.path for gradient, variable in zip(grads, vars, strict=True) if gradient is None]
        if len(missing) == len(vars):
            raise InvalidArgumentError("No gradients provided for any variable.")
        if missing:
            warnings.warn(f"Gradients do not exist for variables {missing} when minimizing the loss.", stacklevel=3)
        found = [(gradient, variable) for gradient, variable in zip(grads, vars, strict=True) if gradient is not None]
        return [gradient for gradient, _ in found], [variable for _, variable in found]

    def _distopt_filtered(self, grads: Sequence[Any], variables: Sequence[Variable]) -> list[Pair]:
        """Return what the user's filter leaves, and None for the rest: all replicas step one list."""
        kept = list(zip(*self._filter_empty_gradients(grads, variables), strict=True))
        pairs: list[Pair] = []
        for variable in variables:
            found = next((k for k, (_, each) in enumerate(kept) if each is variable), None)
            pairs.append((None, variable) if found is None else kept.pop(found))
        return pairs

    def _distopt_take_out(self, gradients: Gradients) -> None:
        """Take out of the step what overwrites variables."""
        training = self._distopt_engine.training
        taken = take_out(gradients, training, self._overwrite_variable_with_gradient)
        is_step = training.accumulation is None or training.accumulation.is_last(training.iterations)
        self.__dict__["_distopt_overwriting"] = taken if taken and is_step else None

    def _distopt_overwrite(self, gradients: Gradients) -> Gradients:
        """Overwrite variables by what was taken out; return what is left to update."""
        taken, self.__dict__["_distopt_overwriting"] = self._distopt_overwriting, None
        return gradients if taken is None else overwrite(gradients, taken)

    # Behind the sum

    def _clip_gradients(self, grads: Sequence[Any]) -> list[Any]:
        """Return new gradients, limited as the optimizer's options say; None stays None."""
        if "_clip_by_norm" in self._distopt_hooks.behind and self.clipnorm is not None:
            return [None if gradient is None else self._clip_by_norm(gradient) for gradient in grads]
        return limited(grads, self._distopt_engine.options.clipping)

    def _clip_by_norm(self, values: Any, axes: Any = None) -> Any:
        """Return a gradient limited by ``clipnorm``, over all axes or some."""
        if axes is None:
            return limited([values], Clipping(clipnorm=self.clipnorm))[0]
        norm = np.sqrt(np.sum(np.square(values), axis=axes, keepdims=True))
        return values * self.clipnorm / np.maximum(norm, self.clipnorm)

    @property
    def _distopt_limiter(self) -> Hook | None:
        """Return what limits the aggregate in place of distopt, or None."""
        return self._distopt_limit if self._distopt_hooks.clips else None

    def _distopt_limit(self, pairs: list[Pair]) -> list[Pair]:
        grads = self._clip_gradients([value_of(gradient) for gradient, _ in pairs])
        if len(grads) != len(pairs):
            raise InvalidArgumentError(
                f"_clip_gradients of {type(self).__name__} received {len(pairs)} gradients and returned {len(grads)}"
            )
        return [(gradient, variable) for gradient, (_, variable) in zip(grads, pairs, strict=True)]

    def _apply_weight_decay(self, variables: Sequence[Variable]) -> None:
        """Let variables decay, by the learning rate of the step."""
        of_step = self._distopt_own_learning_rate.of_step
        rate = float(self.learning_rate if of_step is None else of_step)
        for variable in variables:
            decay_variable(variable, self._distopt_weight_decay_of(variable) * rate)

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Variable], learning_rate: Any
    ) -> None:
        """Update all variables, one after the other."""
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            self._distopt_update_one(gradient, variable, learning_rate)

    def _distopt_update_one(self, gradient: Any, variable: Variable, learning_rate: Any) -> None:
        if self._distopt_hooks.is_former:
            self.update_step(gradient, variable)  # type: ignore[call-arg]  # as it was called in Keras 2.11 to 2.15
        else:
            self.update_step(gradient, variable, learning_rate)

    def _distopt_update_by_methods(self, gradients: Gradients, entries: Sequence[int]) -> None:
        """Let methods update variables; what a method of the user's gets does not change later."""
        slab, hooks, rate = gradients.slab, self._distopt_hooks, self._distopt_own_learning_rate.of_step
        if hooks.updates and not hooks.rate and isinstance(self._learning_rate, Variable):
            rate = self._learning_rate  # which they may assign, as in Keras
        variables = [slab.variables[k] for k in entries]
        self._apply_weight_decay(variables)
        if hooks.updates_together:
            grads = [own_value(gradients.sparse.get(k, slab.views[k])) for k in entries]
            self._backend_update_step(grads, variables, rate)
            return
        for k, variable in zip(entries, variables, strict=True):
            gradient = gradients.sparse.get(k, slab.views[k])
            self._distopt_update_one(own_value(gradient) if hooks.updates else gradient, variable, rate)

    def _distopt_methods(self) -> str:
        return ", ".join(
            [*self._distopt_hooks.behind, *(["overwrite_with_gradient"] if self._distopt_may_overwrite else [])]
        )

    def _distopt_missing(self, names: list[str], *, everything: bool) -> None:
        if everything:
            where = " on every replica" if num_replicas() > 1 else ""
            raise InvalidArgumentError(
                f"No gradients provided for any variable. The gradients of {names} are None{where}: is the loss "
                "computed from these variables, under the tape?"
            )
        if get_strategy().replica_index == 0:
            warnings.warn(f"Gradients do not exist for variables {names} when minimizing the loss.", stacklevel=5)

    def _obj_type(self) -> str:
        """Return the kind of object that Keras' messages name."""
        return "Optimizer"


def _as_given(gradient: Any, variable: Variable) -> Any:
    """Return a gradient that can be computed with: a list or a number as an array."""
    is_plain = isinstance(gradient, (list, tuple, int, float))
    return value_of(np.asarray(gradient, variable.dtype) if is_plain else gradient)
