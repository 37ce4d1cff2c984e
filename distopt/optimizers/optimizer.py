"""The Keras 3 face: ``build``, ``update_step``, ``apply_gradients``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from distopt.distribute.collectives import num_replicas
from distopt.distribute.names import unique_name
from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError
from distopt.gradients import compute_gradients
from distopt.indexed_slices import IndexedSlices
from distopt.optimizers import step
from distopt.optimizers.arguments import evaluated, finite, unknown_arguments
from distopt.optimizers.base import Hook
from distopt.optimizers.rule_updates import constrain, rounds
from distopt.optimizers.schedules.serialization import deserialize
from distopt.optimizers.state import State
from distopt.slab import Gradients, Pair, Slab
from distopt.transformers.clipping import Clipping, checked_limit
from distopt.variable import Variable

_LATER: dict[str, Any] = {
    "weight_decay": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}
"""Arguments of Keras that this version takes at their defaults only, so that its configs can be read."""


class Optimizer(State):
    """Base class of the Keras 3 family.

    One step: sum the gradients over replicas, clip the sum, transform it, update every variable, apply constraints.
    Gradients are summed, not averaged: divide the loss by the *global* batch size (``distopt.losses`` does).

    To write your own, override ``build`` (make slots with ``add_variable_from_reference``), ``update_step`` and
    ``get_config``.

    Args:
        learning_rate: a number, a schedule, or a function without arguments.
        clipnorm: limit of the norm of each variable's aggregated gradient.
        clipvalue: limit of each element of the aggregated gradients.
        global_clipnorm: limit of the norm of all aggregated gradients together. At most one of the three.
        name: a name; by default the class's in snake case, numbered.
        gradient_aggregator: function from a list of (gradient, variable) to such a list, called on every replica in
            place of the sum; see ``distopt.aggregators``.
        gradient_transformers: list of such functions, called in order on the clipped aggregate.

    Raises:
        InvalidArgumentError: a value that can't be right; an argument that nobody knows.

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

    _casts_gradients = True
    _merges_rows = True
    _rule_hyperparameters: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        learning_rate: Any = 0.001,
        *,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str | None = None,
        gradient_aggregator: Hook | None = None,
        gradient_transformers: Sequence[Hook] | None = None,
        **kwargs: Any,
    ) -> None:
        owner = type(self).__name__
        self._refuse_unknown(kwargs)
        limits = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
        if sum(limit is not None for limit in limits.values()) > 1:
            raise InvalidArgumentError(
                f"{owner}: Only one of `clipnorm`, `clipvalue` and `global_clipnorm` can be set, received "
                + ", ".join(f"{k}={v!r}" for k, v in limits.items())
            )
        checked = {k: checked_limit(k, v) for k, v in limits.items()}
        self.name = name or unique_name(_snake_case(owner))
        super().__init__(learning_rate, gradient_aggregator, gradient_transformers, Clipping(**checked))
        self._step_learning_rate: Any = None

    def _refuse_unknown(self, kwargs: dict[str, Any]) -> None:
        if kwargs.pop("decay", None) is not None:
            warnings.warn("decay is not known to this family and ignored: use a schedule", stacklevel=4)
        unknown = [k for k in kwargs if k not in _LATER]
        if unknown:
            known = [*_LATER, "learning_rate", "clipnorm", "clipvalue", "global_clipnorm", "name"]
            raise unknown_arguments(type(self).__name__, unknown, known, InvalidArgumentError)
        for argument, value in kwargs.items():
            if value != _LATER[argument]:
                raise InvalidArgumentError(
                    f"{type(self).__name__}({argument}={value!r}): this version takes {_LATER[argument]!r} only"
                )

    # The step

    def apply_gradients(
        self,
        grads_and_vars: Iterable[Pair],
        name: str | None = None,
        experimental_aggregate_gradients: bool = True,
        *,
        items: float | None = None,
    ) -> Variable:
        """Do one step: ``step.py`` shows it from top to bottom.

        Args:
            grads_and_vars: (gradient, variable) pairs. A gradient is an array of the variable's shape (cast to its
                dtype), IndexedSlices, or None; it is not changed.
            name: ignored; there for code written for the legacy family.
            experimental_aggregate_gradients: False communicates nothing: the gradients are taken as aggregated.
            items: number of items of this replica's *summed* loss; the aggregate is divided by the sum over replicas.

        Returns:
            ``iterations``.

        Raises:
            InvalidArgumentError: a gradient that doesn't fit its variable; no gradient for any variable; no pairs.
            CollectiveMismatchError: replicas disagree on the call (on every replica).
        """
        step.apply_gradients(self, grads_and_vars, bool(experimental_aggregate_gradients), items)
        return self._step_counter

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Variable] | None = None) -> Variable:
        """Do one step with gradients and variables as two lists.

        Args:
            grads: gradients, in the order of the variables; an empty list does nothing.
            trainable_variables: the variables; None means those that the optimizer was built for.
        """
        if len(grads) == 0:
            return self._step_counter
        if trainable_variables is None and not self.built:
            raise InvalidArgumentError(
                "apply(grads) without variables: the optimizer is not built. Pass trainable_variables, or call build"
            )
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        if len(grads) != len(variables):
            raise InvalidArgumentError(f"apply received {len(grads)} gradients for {len(variables)} variables")
        return self.apply_gradients(zip(grads, variables, strict=True))

    def minimize(
        self,
        loss: Any,
        var_list: Sequence[Variable] | Callable[[], Sequence[Variable]],
        grad_loss: Any = None,
        name: str | None = None,
        tape: Any = None,
    ) -> Variable:
        """Differentiate a loss and do one step: as in the legacy family."""
        return self.apply_gradients(compute_gradients(loss, var_list, grad_loss=grad_loss, tape=tape), name=name)

    def update_step(self, gradient: Any, variable: Variable, learning_rate: Any) -> None:
        """Update one variable. Override it to write an optimizer of your own.

        Args:
            gradient: the aggregated gradient: an array in the variable's shape and dtype, or IndexedSlices without
                repeated rows.
            variable: the variable; write it with ``assign``, ``assign_add``, ``assign_sub``.
            learning_rate: the learning rate of this step, a number.
        """
        scalars = self._scalars(learning_rate)
        if not isinstance(gradient, IndexedSlices):
            self._update_one(variable, gradient, scalars)
        elif self._known_rule().slots:
            self._update_one(variable, gradient.to_dense(), scalars)
        else:  # rows without a gradient would not move
            self._update_rows(variable, gradient, scalars)

    def _scalars(self, learning_rate: Any) -> Sequence[float]:
        """The values of the rule's scalars in this step."""
        raise NotImplementedError

    @property
    def _updates_flat(self) -> bool:
        return type(self).update_step is Optimizer.update_step

    def _step_scalars(self, dtype: np.dtype[Any]) -> Sequence[float]:
        return self._scalars(self._step_learning_rate)

    def _check_gradients(self, slab: Slab, kinds: bytearray) -> None:
        if self._updates_flat and self._rule() is None:
            raise NotImplementedError(f"{type(self).__name__} must override update_step")

    def _evaluate_hyperparameters(self, slab: Slab) -> dict[str, float]:
        rate = self._current_learning_rate()
        if isinstance(self._learning_rate, Variable):
            number = finite(self.name, "learning_rate", float(rate))
        else:
            number = evaluated(self.name, int(self._step_counter), "learning_rate", rate)
        self._step_learning_rate = rate
        if self._rule() is not None:
            self._scalars(rate)  # what can't be computed fails before anything is agreed on
        own = {name: float(getattr(self, name)) for name in self._rule_hyperparameters}
        return {"learning_rate": number} | own | self._clip_values()

    def _create_state(self, gradients: Gradients) -> None:
        """Slots are made by ``build``."""

    def _update(self, gradients: Gradients, *, dense_done: bool = False) -> None:
        rate, variables, sparse = self._step_learning_rate, gradients.slab.variables, gradients.sparse
        if self._transformers:  # they may return repeated rows
            sparse = {k: slices.deduplicate() for k, slices in sparse.items()}
        for entries in rounds(gradients):
            if self._updates_flat:
                dense = [k for k in entries if k not in sparse] if sparse else entries
                if not dense_done:
                    self._update_flat(gradients, dense)
                entries = [k for k in entries if k in sparse] if sparse else []
            for k in entries:
                self.update_step(sparse.get(k, gradients.slab.views[k]), variables[k], rate)
        for k in gradients.entries:
            constrain(variables[k])

    def _missing(self, names: list[str], everything: bool) -> None:
        if everything:
            where = " on every replica" if num_replicas() > 1 else ""
            raise InvalidArgumentError(
                f"No gradients provided for any variable. The gradients of {names} are None{where}: is the loss "
                "computed from these variables, under the tape?"
            )
        if get_strategy().replica_index == 0:
            warnings.warn(f"Gradients do not exist for variables {names} when minimizing the loss.", stacklevel=5)

    # Serialisation

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs, as JSON can hold them; hooks are not part of it."""
        rate = self._learning_rate_config()
        return {"name": self.name, "learning_rate": rate, **_LATER, **vars(self._clipping)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Make an optimizer from what ``get_config`` returned (not changed).

        Args:
            config: the arguments.
            custom_objects: classes of schedules of your own, by name.
        """
        arguments = dict(config)
        if isinstance(arguments.get("learning_rate"), dict):
            arguments["learning_rate"] = deserialize(arguments["learning_rate"], custom_objects)
        return cls(**arguments)


def _snake_case(name: str) -> str:
    """``AdamW`` is ``adam_w``, ``RMSprop`` is ``rm_sprop``, as in Keras."""
    return re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", name).lower()
