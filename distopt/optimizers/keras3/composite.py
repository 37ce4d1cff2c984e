"""Optimizers made of optimizers: replicas do one step together, in which the inner optimizers update variables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from distopt.engine.state.options import Hook
from distopt.engine.sweep.rescaling import Rescaling
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.access import engine_of, family_of, parts_of
from distopt.optimizers.common.base import BaseOptimizer
from distopt.optimizers.common.overrides import is_overridden
from distopt.optimizers.keras3.hooks import BEFORE
from distopt.optimizers.keras3.optimizer import Optimizer
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import Listing
from distopt.variables.variable import Variable

_OF_INNER = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm")


class Composite(Optimizer):
    """The common part of ``MultiOptimizer`` and ``LossScaleOptimizer``; not for users.

    Gradients are summed once for all inner optimizers. Each of these clips and updates its own variables, with its own
    learning rate, weight decay and averages.
    """

    _distopt_inner: list[Optimizer]
    _distopt_not_called_by_rule = ("add_variable",)

    @property
    def _distopt_not_inside(self) -> type:
        """Return the class of the optimizers that can't be inside of this one."""
        return Composite

    def _distopt_inner_of(self, variable: Variable) -> Optimizer:
        """Return the optimizer of one variable."""
        raise NotImplementedError

    def _distopt_usable_inner(self, inner: Any) -> Optimizer:
        """Return the argument, after checking that it can be an inner optimizer.

        Raises:
            InvalidArgumentError: the argument can't be an inner optimizer.
        """
        owner = type(self).__name__
        if not isinstance(inner, Optimizer) or isinstance(inner, self._distopt_not_inside):
            raise InvalidArgumentError(
                f"{owner}: received {inner!r} as an inner optimizer: expected one of the Keras 3 family that has no "
                "optimizer inside" + " (or a MultiOptimizer)" * (self._distopt_not_inside is not Composite)
            )
        hooks = engine_of(inner).options
        if hooks.aggregator is not None or hooks.transformers:
            raise InvalidArgumentError(
                f"{owner}: the inner optimizer {inner.name!r} has hooks. Gradients are summed once for all: give "
                f"gradient_aggregator and gradient_transformers to {owner}"
            )
        if overridden := [name for name in BEFORE if is_overridden(type(inner), name)]:
            raise InvalidArgumentError(
                f"{owner}: {type(inner).__name__} overrides {', '.join(overridden)}, which see the gradients of a "
                f"replica, and {owner} hands the sum to its inner optimizers: override them in a subclass of {owner}"
            )
        inner.loss_scale_factor = None  # or gradients would be divided twice
        return inner

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OF_INNER and "_distopt_inner" in self.__dict__:
            raise InvalidArgumentError(f"{type(self).__name__}: set {name} on the inner optimizer")
        super().__setattr__(name, value)

    def exclude_from_weight_decay(
        self, var_list: Iterable[Variable] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Raise an error: weights decay in an inner optimizer, which has a list of its own (Keras 3 does nothing here).

        Args:
            var_list: variables to leave out.
            var_names: regular expressions.
        """
        raise InvalidArgumentError(
            f"{type(self).__name__}: weights decay in its inner optimizers, each of which has a list of its own: call "
            "exclude_from_weight_decay on them"
        )

    def _distopt_parts(self) -> Sequence[BaseOptimizer]:
        return [part for inner in self._distopt_inner for part in parts_of(inner)]

    def _distopt_shares(self, variables: Iterable[Variable]) -> list[tuple[Optimizer, list[Variable]]]:
        shares: dict[int, tuple[Optimizer, list[Variable]]] = {}
        for variable in variables:
            inner = self._distopt_inner_of(variable)
            shares.setdefault(id(inner), (inner, []))[1].append(variable)
        return list(shares.values())

    def _distopt_identity(self) -> str:
        return f"{super()._distopt_identity()} of {[family_of(inner).identity() for inner in self._distopt_inner]}"

    def _distopt_make_all_slots(self) -> None:
        for inner, variables in self._distopt_shares(self._trainable_variables):
            with engine_of(inner).values_shared_later():  # this optimizer does so, for all
                inner.build(variables)

    @property
    def variables(self) -> list[Variable]:
        """Return all state: this optimizer's own variables, then those of each inner optimizer."""
        return [*super().variables, *(variable for inner in self._distopt_inner for variable in inner.variables)]

    def _distopt_state(self) -> list[Variable]:
        return [
            *super()._distopt_state(),
            *(variable for inner in self._distopt_inner for variable in family_of(inner).state()),
        ]

    def _distopt_variant_of(self, variable: Variable) -> int:
        return family_of(self._distopt_inner_of(variable)).variant_of(variable)

    @property
    def _distopt_updates_flat(self) -> bool:
        return False

    def _distopt_evaluate_hyperparameters(self, listing: Listing) -> dict[str, float]:
        return {
            f"{label} of optimizer {number}": value
            for number, inner in enumerate(self._distopt_inner)
            for label, value in family_of(inner).hyperparameters(listing).items()
        }

    def _distopt_create_state(self, gradients: Gradients) -> None:
        for inner in self._distopt_inner:
            family_of(inner).create_state(gradients)

    @property
    def _distopt_limiter(self) -> Hook | None:
        return None

    def _distopt_methods(self) -> str:
        return ""

    def _distopt_update(self, gradients: Gradients, *, dense_done: bool) -> None:
        if self._distopt_overwriting is not None:
            gradients = self._distopt_overwrite(gradients)
        entries: dict[int, list[int]] = {}
        for k in gradients.entries:
            entries.setdefault(id(self._distopt_inner_of(gradients.slab.variables[k])), []).append(k)
        for inner in self._distopt_inner:
            part, options = gradients.part(entries.get(id(inner), [])), engine_of(inner).options
            Rescaling(options.limits).limit(part)
            for limiter in options.on_sum:
                part.replace_from_hook(limiter(part.copied_pairs()), f"a method of {inner.name!r}")
            family_of(inner).update(part, dense_done=False)

    def finalize_variable_values(self, var_list: Iterable[Variable]) -> None:
        """Overwrite variables by their averages, where their optimizer keeps averages."""
        for inner, variables in self._distopt_shares(var_list):
            inner.finalize_variable_values(variables)
