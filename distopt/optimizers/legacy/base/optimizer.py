"""The base class of the legacy family: OptimizerV2 with its slots, hyperparameters and ``_resource_apply_*``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from distopt.arguments import checked_transformers, real, unknown_arguments
from distopt.distribute.collectives import num_replicas
from distopt.distribute.strategy import get_strategy
from distopt.engine.state.options import Hook, StepOptions
from distopt.errors import InvalidArgumentError, UnknownArgumentError
from distopt.optimizers.legacy.base.differentiation import Differentiation
from distopt.optimizers.legacy.base.hooks import ON_SUM
from distopt.optimizers.legacy.base.summing import summed
from distopt.optimizers.legacy.base.updates import Updates
from distopt.optimizers.schedules.serialization import deserialize
from distopt.slabs.fitting import Pair, fit
from distopt.slabs.gradients import as_pairs
from distopt.transformers import Clipping, limited
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.values import value_of
from distopt.variables.variable import Variable

_logger = logging.getLogger("distopt")


class Optimizer(Differentiation, Updates):
    """The base class of the legacy family (``tf.keras.optimizers.legacy``).

    One step: evaluate hyperparameters, sum the gradients over replicas, clip the sum (clipvalue, clipnorm,
    global_clipnorm, in this order), transform it, update every variable, apply constraints, count. Gradients are
    summed, not averaged: divide the loss by the *global* batch size (``distopt.losses`` does).

    To write your own, override ``_create_slots``, ``_resource_apply_dense``, ``_resource_apply_sparse`` (or
    ``_resource_apply_sparse_duplicate_indices``) and ``get_config``; ``_set_hyper`` in the constructor makes
    hyperparameters, ``_prepare_local`` evaluates what all variables share. A rule of single elements is quicker: then
    override ``update_rule``, ``rule_slots`` and ``rule_scalars``.

    Args:
        name: a name; the names of state variables begin with it.
        gradient_aggregator: function from a list of (gradient, variable) to such a list, called on every replica in
            place of the sum; see ``distopt.aggregators``.
        gradient_transformers: list of such functions, called in order on the aggregate; not together with clipping.
        **kwargs: ``clipvalue``, ``clipnorm``, ``global_clipnorm``; ``lr`` (for ``learning_rate``); ``decay`` d, which
            makes the learning rate ``lr / (1 + d t)`` after t steps (setting the attribute later changes nothing).

    Raises:
        InvalidArgumentError: an impossible value.
        UnknownArgumentError: an unknown argument.

    Example:
        >>> import distopt
        >>> v = distopt.Variable(2.0)
        >>> optimizer = distopt.optimizers.legacy.SGD(learning_rate=0.1)
        >>> int(optimizer.minimize(lambda: 3 * v * v, var_list=[v]))
        1
        >>> round(float(v), 4)
        0.8

    Source: ``tf_keras.optimizers.legacy.Optimizer``.
    """

    def __init__(
        self,
        name: str,
        gradient_aggregator: Hook | None = None,
        gradient_transformers: Sequence[Hook] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._distopt_is_probe:
            self._distopt_begin_probe(name)
            return
        owner = type(self).__name__
        known = ("clipnorm", "clipvalue", "global_clipnorm", "lr", "decay")
        if unknown := [k for k in kwargs if k not in known]:
            raise unknown_arguments(owner, unknown, (*known, "learning_rate", "name"), UnknownArgumentError)
        for argument, value in kwargs.items():
            if value is not None and not callable(value) and real(owner, argument, value) < 0:
                raise InvalidArgumentError(f"Expected {argument} >= 0, received: {value}")
        if "lr" in kwargs:
            warnings.warn(f"{owner}: lr is an old name of learning_rate; use learning_rate", stacklevel=3)
        self._distopt_given_aggregator = gradient_aggregator
        self._distopt_transformers = checked_transformers(gradient_transformers)
        options = StepOptions(
            self._aggregate_gradients if "_aggregate_gradients" in self._distopt_hooks else gradient_aggregator,
            [] if self._distopt_transforms else gradient_transformers,
            Clipping(),
            casts=False,
            merges_rows=False,
        )
        if self._distopt_transforms:
            options.limit_with(self._transform_gradients)
        super().__init__(name, options, float(kwargs.get("decay") or 0.0))
        self._distopt_set_clipping(**{k: kwargs.get(k) for k in known[:3]})
        self._use_locking = True

    # The step

    def apply_gradients(
        self,
        grads_and_vars: Iterable[Pair],
        name: str | None = None,
        experimental_aggregate_gradients: bool = True,
        *,
        items: float | None = None,
    ) -> Variable:
        """Do one step: ``distopt/engine/step.py`` shows it from top to bottom.

        Args:
            grads_and_vars: (gradient, variable) pairs. A gradient is an array of the variable's shape and dtype,
                IndexedSlices, or None; it is not changed. An empty list does nothing.
            name: ignored, as in eager TensorFlow.
            experimental_aggregate_gradients: False communicates nothing: the gradients count as aggregated already.
            items: number of items of this replica's *summed* loss; the aggregate is divided by the sum over replicas.

        Returns:
            ``iterations``.

        Raises:
            InvalidArgumentError: a gradient that doesn't fit its variable; no gradient for any variable;
                gradients that are not zero with ``items=0`` on all replicas.
            CollectiveMismatchError: replicas disagree on the call (on every replica).
        """
        self._distopt_do_step(grads_and_vars, aggregates=bool(experimental_aggregate_gradients), items=items)
        return self.iterations

    def minimize(
        self,
        loss: Any,
        var_list: Sequence[Variable] | Callable[[], Sequence[Variable]],
        grad_loss: Any = None,
        name: str | None = None,
        tape: Any = None,
    ) -> Variable:
        """Differentiate a loss and do one step.

        Args:
            loss: a function without arguments that returns the loss; or a value computed under ``tape``.
            var_list: the variables, or a function that returns them (called after the loss).
            grad_loss: factor of the gradients: the gradient of some other quantity with respect to the loss.
            name: ignored.
            tape: the ``GradientTape`` under which a loss value was computed.

        Returns:
            ``iterations``.
        """
        pairs = self._compute_gradients(loss, var_list=var_list, grad_loss=grad_loss, tape=tape)
        return self.apply_gradients(pairs, name=name)

    def get_updates(self, loss: Any, params: Any) -> list[Variable]:
        """Do one step with the gradients of ``get_gradients``; return ``iterations`` in a list."""
        pairs = list(zip(self.get_gradients(loss, params), params, strict=True))
        self._assert_valid_dtypes([variable for _, variable in pairs])
        return [self.apply_gradients(pairs)]

    def _distopt_missing(self, names: list[str], *, everything: bool) -> None:
        if everything:
            where = " on every replica" if num_replicas() > 1 else ""
            raise InvalidArgumentError(
                f"No gradients provided for any variable: {names}. All are None{where}: is the loss computed from "
                "these variables, under the tape?"
            )
        if get_strategy().replica_index == 0:
            _logger.warning("Gradients do not exist for variables %s when minimizing the loss.", names)

    # Options: clipping and transformers exclude each other, as upstream

    def _distopt_refuse_limit(self, name: str, value: float) -> None:
        if self._distopt_transformers:
            raise InvalidArgumentError(
                f"`{name}` cannot be set when `gradient_transformers` is set. Instead, clip in one of the transformers"
            )

    @property
    def gradient_aggregator(self) -> Hook | None:
        """Return the user's aggregator, or None for the sum."""
        return self._distopt_given_aggregator

    def _aggregate_gradients(self, grads_and_vars: list[Pair]) -> Any:
        """Return the aggregated gradients; a subclass can override this method instead of using a hook."""
        return (
            summed(grads_and_vars)
            if self._distopt_given_aggregator is None
            else self._distopt_given_aggregator(grads_and_vars)
        )

    def _distopt_seen_before_sum(self, pairs: list[Pair]) -> list[Pair]:
        name = "_transform_unaggregated_gradients"
        given = [(_own(gradient, variable), variable) for gradient, variable in pairs if gradient is not None]
        self._distopt_prepare_for([variable for _, variable in given])  # the method may look for slots
        returned = self._transform_unaggregated_gradients(given)
        seen = as_pairs(returned, f"{type(self).__name__}.{name} returned", "a list of (gradient, variable) pairs")
        if [id(variable) for _, variable in seen] != [id(variable) for _, variable in given]:
            return [*seen, *(pair for pair in pairs if pair[0] is None)]
        rest = iter(seen)  # what has no gradient here keeps its place: other replicas may have one
        return [pair if pair[0] is None else next(rest) for pair in pairs]

    def _transform_unaggregated_gradients(self, grads_and_vars: list[Pair]) -> Any:
        """Return this replica's gradients before they are summed; override this method to change them."""
        return grads_and_vars

    def _transform_gradients(self, grads_and_vars: Iterable[Pair]) -> Any:
        """Limit and transform the aggregated gradients; an override is called in the place of both."""
        pairs = list(grads_and_vars)
        gradients = self._clip_gradients([gradient for gradient, _ in pairs])
        pairs = list(zip(gradients, [variable for _, variable in pairs], strict=True))
        for transformer in self._distopt_transformers:
            pairs = transformer(pairs)
        return pairs

    def _clip_gradients(self, grads: list[Any]) -> Any:
        """Limit the aggregated gradients by clipvalue, clipnorm and global_clipnorm; override this method to do more.

        Source: TensorFlow 2.0 to 2.3, where it limited each replica's own.
        """
        return limited(grads, self._distopt_engine.options.clipping)

    @property
    def _distopt_transforms(self) -> bool:
        return not self._distopt_hooks.isdisjoint(ON_SUM)

    @property
    def gradient_transformers(self) -> list[Hook]:
        """Return the user's transformers, in order."""
        return self._distopt_transformers

    @gradient_transformers.setter
    def gradient_transformers(self, value: Sequence[Hook] | None) -> None:
        if value and self._distopt_engine.options.clipping.active:
            raise InvalidArgumentError(
                "`gradient_transformers` cannot be set when `clipvalue`, `clipnorm` or `global_clipnorm` is set. "
                "Clip in one of the transformers"
            )
        self._distopt_transformers = checked_transformers(value)
        if not self._distopt_transforms:
            self._distopt_engine.options.transform_by(value)

    def _distopt_set_clipping(
        self, clipnorm: float | None, clipvalue: float | None, global_clipnorm: float | None
    ) -> None:
        if clipnorm is not None and global_clipnorm is not None:
            raise InvalidArgumentError(
                f"Cannot accept both `clipnorm` and `global_clipnorm`, received: {clipnorm}, {global_clipnorm}"
            )
        self.clipvalue, self.clipnorm, self.global_clipnorm = clipvalue, clipnorm, global_clipnorm

    # Serialisation

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs, as JSON can hold them; hooks are not part of it."""
        every = {"clipvalue": self.clipvalue, "clipnorm": self.clipnorm, "global_clipnorm": self.global_clipnorm}
        limits = {name: limit for name, limit in every.items() if limit is not None}
        return {"name": self._name} | limits | {name: self._distopt_argument(name) for name in self._distopt_arguments}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Make an optimizer from what ``get_config`` returned (not changed).

        Args:
            config: the arguments; ``lr`` is read as ``learning_rate``.
            custom_objects: classes of schedules of your own, by name.
        """
        arguments = dict(config)
        if "lr" in arguments:
            arguments["learning_rate"] = arguments.pop("lr")
        if isinstance(arguments.get("learning_rate"), dict):
            arguments["learning_rate"] = deserialize(arguments["learning_rate"], custom_objects)
        return cls(**arguments)


def _own(gradient: Any, variable: Variable) -> Any:
    """Return a gradient as a method of the user's sees it: fitted to its variable, and in memory of its own."""
    fitting = fit(gradient, variable, "the gradient", casts=False)
    if isinstance(fitting, IndexedSlices):
        return fitting.with_values(value_of(fitting.values.copy()))
    return value_of(fitting.copy())
