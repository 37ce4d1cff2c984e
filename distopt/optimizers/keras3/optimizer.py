"""The base class of the Keras 3 family: ``build``, ``update_step``, ``apply_gradients``."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from distopt.arguments import count, unknown_arguments
from distopt.engine.state.accumulation import Accumulation
from distopt.engine.state.options import Hook, StepOptions
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.rule_updates import (
    constrain,
    named_scalars,
    rounds,
    update_flat,
    update_one,
    update_rows,
)
from distopt.optimizers.keras3.former import Former
from distopt.optimizers.keras3.hooks import hooks_of
from distopt.optimizers.keras3.learning_rate import LearningRate
from distopt.optimizers.keras3.master_weights import MasterWeights
from distopt.optimizers.keras3.moving_average import MovingAverage
from distopt.optimizers.keras3.weight_decay import WeightDecay
from distopt.process.names import snake_case, unique_name
from distopt.slabs.fitting import Pair
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import Listing
from distopt.transformers import only_limit
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.minimizing import compute_gradients
from distopt.variables.variable import Variable


class Optimizer(Former):
    """The base class of the Keras 3 family.

    One step: sum the gradients over replicas, clip the sum, transform it, update every variable, apply constraints.
    Gradients are summed, not averaged: divide the loss by the *global* batch size (``distopt.losses`` does).

    To write your own, override ``build`` (make slots with ``add_variable_from_reference``), ``update_step`` and
    ``get_config``. For a rule of single elements, which is quicker: ``update_rule``, ``rule_slots``, ``rule_scalars``.

    Args:
        learning_rate: a number (rounded to float32, as in Keras), a schedule, or a function without arguments.
        clipnorm: limit of the norm of each variable's aggregated gradient.
        clipvalue: limit of each element of the aggregated gradients.
        global_clipnorm: limit of the norm of all aggregated gradients together. Give at most one of the three limits.
        weight_decay: λ: before its update each weight loses lr λ of itself.
        use_ema: whether to keep an exponential moving average of the weights.
        ema_momentum: μ of the moving average, 0 to 1.
        ema_overwrite_frequency: number of steps after which the averages overwrite the weights each time; None: not
            before ``finalize_variable_values``.
        loss_scale_factor: the factor of the loss (``scale_loss``): the aggregate is divided by it.
        gradient_accumulation_steps: number of calls that make one step, 2 or more. Each replica adds gradients and
            items up, and only the last call sends something. The step uses the average over the calls, or, where items
            are given, over all items: exactly the gradients of the joined batch. With 0 or None every call is a step. A
            schedule counts calls, not steps, as in Keras.
        master_weights: whether variables of 16 bits are updated through exact copies in float32 (not in Keras).
        name: a name; by default the class's in snake case, numbered.
        gradient_aggregator: function from a list of (gradient, variable) to such a list, called on every replica in
            place of the sum; see ``distopt.aggregators``.
        gradient_transformers: list of such functions, called in order on the clipped aggregate.

    Raises:
        InvalidArgumentError: an impossible value; an unknown argument.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([1.0, 2.0])
        >>> optimizer = distopt.optimizers.SGD(learning_rate=0.5)
        >>> int(optimizer.apply_gradients([([1.0, 1.0], w)]))
        1
        >>> w.numpy()
        array([0.5, 1.5], dtype=float32)

    Source: Keras 3 ``keras.optimizers.Optimizer``; there gradients are clipped before replicas are summed, and repeated
    rows of a sparse gradient are not added (here they are, before clipping).
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        master_weights: bool = False,
        gradient_aggregator: Hook | None = None,
        gradient_transformers: Sequence[Hook] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._distopt_is_probe:
            return
        owner, hooks = type(self).__name__, hooks_of(type(self))
        self._distopt_refuse_unknown(kwargs, is_former=hooks.is_former)
        if isinstance(learning_rate, str) and hooks.is_former:  # the name came first then
            name, learning_rate = learning_rate, 0.001
        if hooks.aggregates:
            gradient_aggregator = self.aggregate_gradients
        clipping = only_limit(owner, clipnorm=clipnorm, clipvalue=clipvalue, global_clipnorm=global_clipnorm)
        options = StepOptions(gradient_aggregator, gradient_transformers, clipping, casts=True, merges_rows=True)
        rate = LearningRate(owner, learning_rate, is_listed=not hooks.is_former)
        decay = WeightDecay(owner, weight_decay)
        average = MovingAverage(
            owner, use_ema, ema_momentum, ema_overwrite_frequency, begins_with_weights=hooks.is_former
        )
        super().__init__(
            name or unique_name(snake_case(owner)), options, rate, decay, average, MasterWeights(owner, master_weights)
        )
        self._distopt_note_hooks()
        self._distopt_scalars_of_step: list[float] = []
        self.loss_scale_factor = loss_scale_factor
        if gradient_accumulation_steps:
            steps = count(owner, "gradient_accumulation_steps", gradient_accumulation_steps, 2)
            self._distopt_engine.training.accumulate_in(Accumulation(steps))

    def _distopt_refuse_unknown(self, kwargs: dict[str, Any], *, is_former: bool) -> None:
        for name in ("jit_compile", *(_FORMER_ARGUMENTS if is_former else ())):  # nothing is compiled by XLA here
            kwargs.pop(name, None)
        if kwargs.pop("decay", None) is not None:
            warnings.warn("decay is not known to this family and ignored: use a schedule", stacklevel=4)
        if kwargs:
            known = [*inspect.signature(Optimizer.__init__).parameters, *self._distopt_hyperparameters]
            raise unknown_arguments(type(self).__name__, kwargs, known, InvalidArgumentError)

    _distopt_by_rule = False
    """True where a rule updates variables, and no method."""

    def _distopt_note_hooks(self) -> None:
        super()._distopt_note_hooks()
        hooks, noted = self._distopt_hooks, self.__dict__
        noted["_distopt_is_former"] = hooks.is_former
        noted["_distopt_by_rule"] = not hooks.updates and type(self).update_step is Optimizer.update_step
        noted["_distopt_is_flat"] = self._distopt_by_rule and not hooks.behind
        self._distopt_engine.options.limit_with(self._distopt_limiter)

    # The step

    def apply_gradients(
        self,
        grads_and_vars: Iterable[Pair],
        name: str | None = None,
        experimental_aggregate_gradients: bool = True,
        *,
        items: float | None = None,
        skip_gradients_aggregation: bool = False,
    ) -> Variable:
        """Do one step: ``distopt/engine/step.py`` shows it from top to bottom.

        Args:
            grads_and_vars: (gradient, variable) pairs. A gradient is an array of the variable's shape (cast to its
                dtype), IndexedSlices, or None; it is not changed.
            name: ignored; it exists for code written for the legacy family.
            experimental_aggregate_gradients: False communicates nothing: the gradients count as aggregated already.
            items: number of items of this replica's *summed* loss; the aggregate is divided by the sum over replicas.
            skip_gradients_aggregation: True means the same as ``experimental_aggregate_gradients=False``; it exists
                for code written for Keras 2.11 to 2.15.

        Returns:
            ``iterations``.

        Raises:
            InvalidArgumentError: a gradient that doesn't fit its variable; no gradient for any variable; no pairs;
                gradients that are not zero with ``items=0`` on all replicas.
            CollectiveMismatchError: replicas disagree on the call (on every replica).
        """
        aggregates = bool(experimental_aggregate_gradients) and not skip_gradients_aggregation
        if self._distopt_hooks.before:
            self._distopt_go_through_apply(list(grads_and_vars), aggregates, items)
        else:
            self._distopt_do_step(grads_and_vars, aggregates=aggregates, items=items)
        return self._distopt_step_counter

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Variable] | None = None) -> Variable:
        """Do one step with gradients and variables as two lists.

        Args:
            grads: gradients, in the order of the variables; an empty list does nothing.
            trainable_variables: the variables; None means those for which the optimizer was built.
        """
        if len(grads) == 0:
            return self._distopt_step_counter
        if trainable_variables is None and not self.built:
            raise InvalidArgumentError(
                "apply(grads) without variables: the optimizer is not built. Pass trainable_variables, or call build"
            )
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        if len(grads) != len(variables):
            raise InvalidArgumentError(f"apply received {len(grads)} gradients for {len(variables)} variables")
        pairs: Iterable[Pair] = zip(grads, variables, strict=True)
        if self._distopt_hooks.before:
            self._check_variables_are_known(variables if self.built else ())
            pairs = self._distopt_filtered(grads, variables) if self._distopt_hooks.filters else pairs
        aggregates, items = self._distopt_step_is
        self._distopt_do_step(pairs, aggregates=aggregates, items=items)
        return self._distopt_step_counter

    def minimize(
        self,
        loss: Any,
        var_list: Sequence[Variable] | Callable[[], Sequence[Variable]],
        grad_loss: Any = None,
        name: str | None = None,
        tape: Any = None,
    ) -> Variable:
        """Differentiate a loss and do one step, as in the legacy family."""
        if self._distopt_is_former:
            return self.apply_gradients(self.compute_gradients(loss, var_list, tape))
        return self.apply_gradients(compute_gradients(loss, var_list, grad_loss=grad_loss, tape=tape))

    def update_step(self, gradient: Any, variable: Variable, learning_rate: Any = None) -> None:
        """Update one variable. Override this method to write an optimizer of your own.

        Args:
            gradient: the aggregated gradient: an array in the variable's shape and dtype, or IndexedSlices without
                repeated rows.
            variable: the variable; write it with ``assign``, ``assign_add``, ``assign_sub``.
            learning_rate: the learning rate of this step, a number; None means the one that was evaluated.
        """
        dense = gradient.to_dense() if isinstance(gradient, IndexedSlices) else gradient
        buffer = variable.storage.allocated_buffer
        rate = self._distopt_own_learning_rate.of_step if learning_rate is None else learning_rate
        update_one(variable, dense, self._distopt_call(buffer, self.rule_scalars(rate)))

    def _distopt_update_sparse(self, variable: Variable, slices: IndexedSlices) -> None:
        variant = self._distopt_variant_of(variable)
        call = self._distopt_step_call(variable.storage.allocated_buffer, variant)
        if self._distopt_known_rule().slots or variant:
            update_one(variable, slices.to_dense(), call)
        else:  # rows without a gradient would not move
            update_rows(variable, slices, call)

    def rule_scalars(self, learning_rate: Any) -> Sequence[float]:
        """Return the values of the rule's scalars in this step, in its order; the same on all replicas."""
        raise NotImplementedError

    @property
    def _distopt_updates_flat(self) -> bool:
        if self._distopt_step_counter.owner.overwrites or self._distopt_hooks.overwrites:
            return self._distopt_is_flat and not self._distopt_may_overwrite
        return self._distopt_is_flat

    def _distopt_step_scalars(self, dtype: np.dtype[Any]) -> Sequence[float]:
        return self._distopt_scalars_of_step

    def _distopt_check_gradients(self, gradients: Gradients) -> None:
        """Accept all gradients: those that fit can be applied; take out those that overwrite their variables."""
        if self._distopt_step_counter.owner.overwrites or self._distopt_hooks.overwrites:
            self._distopt_take_out(gradients)

    def _distopt_evaluate_hyperparameters(self, listing: Listing) -> dict[str, float]:
        rate, options = self._distopt_own_learning_rate, self._distopt_engine.options
        calls = self._distopt_step_counter
        by_user = self._distopt_hooks.rate
        number = rate.adopt(self.name, calls, self.learning_rate) if by_user else rate.evaluate(self.name, calls)
        numbers = {"learning_rate": number}
        if (rule := self.update_rule()) is not None:
            self._distopt_scalars_of_step[:] = self.rule_scalars(rate.of_step)
            if not self._distopt_hyperparameters:  # a user's own
                numbers = named_scalars(type(self).__name__, rule, self._distopt_scalars_of_step) | numbers
        elif self._distopt_by_rule:
            raise NotImplementedError(f"{type(self).__name__} must override update_step")
        for name in self._distopt_hyperparameters:
            value = getattr(self, name)
            if isinstance(value, (int, float)):
                numbers[name] = float(value)
        return (
            numbers | self._distopt_own_weight_decay.agreed | self._distopt_own_moving_average.agreed | options.agreed
        )

    def _distopt_create_state(self, gradients: Gradients) -> None:
        """Renew the exact copies of assigned weights; all slots have been made by ``build``."""
        if self._distopt_own_master_weights.are_kept:
            self._distopt_own_master_weights.renew(self._distopt_engine.slots)

    def _distopt_update(self, gradients: Gradients, *, dense_done: bool) -> None:
        if self._distopt_overwriting is not None:
            gradients = self._distopt_overwrite(gradients)
        variables, sparse = gradients.slab.variables, gradients.sparse
        for entries in rounds(gradients) if gradients.listing.has_duplicates else (gradients.entries,):
            if self._distopt_by_rule:
                if self._distopt_hooks.decays:
                    self._apply_weight_decay([variables[k] for k in entries])
                dense = [k for k in entries if k not in sparse] if sparse else entries
                if not dense_done:
                    update_flat(gradients, dense, self._distopt_step_call)
                for k in entries:
                    if k in sparse:
                        self._distopt_update_sparse(variables[k], sparse[k])
            else:
                self._distopt_update_by_methods(gradients, entries)
        if self._distopt_own_moving_average.is_kept:
            self._distopt_own_moving_average.update(
                self._distopt_stepped, self._distopt_engine.slots, self._distopt_step_number
            )
        for k in gradients.entries:
            if variables[k].constraint is not None:
                constrain(variables[k])
        if self._distopt_own_master_weights.are_kept:
            self._distopt_own_master_weights.note(self._distopt_engine.slots)


_FORMER_ARGUMENTS = ("is_legacy_optimizer", "mesh")
"""Arguments that optimizers of Keras 2.11 to 2.15 hand on, and that change no result."""
