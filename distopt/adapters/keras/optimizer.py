"""The optimizer that ``model.compile`` takes: Keras computes the gradients, distopt makes the step."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from distopt import optimizers
from distopt.adapters.keras.counterparts import constrained, counterpart, current_rate, number
from distopt.adapters.keras.exclusions import Exclusions
from distopt.adapters.keras.order import in_order, unknown
from distopt.distribute.agreement.header import telling_the_others
from distopt.distribute.belonging import in_own_scope
from distopt.distribute.collectives import broadcast, num_replicas
from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.access import belonging_of, engine_of, parts_of
from distopt.variables.variable import Variable

_backend: Any = importlib.import_module(f"distopt.adapters.keras.on_{keras.backend.backend()}")


@keras.saving.register_keras_serializable(package="distopt")
class DistributedOptimizer(keras.optimizers.Optimizer):
    """A Keras optimizer that averages gradients over replicas and updates by an optimizer of distopt.

    One step: ``weights ← step(weights, Σ grads / R)``, the sum over the R replicas in the fixed order of distopt. The
    changes to a script for one process::

        model.compile(optimizer=DistributedOptimizer(keras.optimizers.Adam(1e-3)), loss=...)
        model.fit(Shares(x, y, global_batch_size=96), epochs=20, callbacks=[ReplicaCallback()])

    **Gradients are averaged**, because Keras' losses are means over the local batch. With ``Shares`` the result equals
    one process on the joined batch, also for uneven batches. With your own arrays or dataset (``fit(x[mine], ...)``) it
    does so only where all replicas have equally large batches in each step; they must have equally many steps.
    Regularisation acts as in one process. A loss with ``reduction="sum"`` must be divided by hand.

    On the JAX backend ``fit`` compiles the function that computes the gradients. The step communicates and can't be
    compiled: ``ReplicaCallback`` makes it after each batch, and without that callback ``fit`` raises an error. Outside
    of ``fit`` (``train_on_batch``), and for ``steps_per_execution`` above 1, pass ``compile(run_eagerly=True)``. On the
    torch backend the variables live in distopt's memory and are updated there, without any callback; with several
    replicas PyTorch gets ``DISTOPT_THREADS`` threads (1).

    The first ``fit`` and ``load_model`` (unless ``compile=False``) are collective: all replicas start from replica 0's
    values of the trained weights. Weights that are not trained (statistics of BatchNormalization, frozen layers, seeds)
    are each replica's own, as are metrics. Clipping, weight decay, EMA, gradient accumulation, loss scale and
    constraints act as in one process, except that constraints act after steps and not after each micro-step.

    ``model.save`` keeps the state in Keras' order. With ``update="shared"`` saving and loading are collectives.

    Args:
        optimizer: an optimizer of ``distopt.optimizers``, not used for anything else; or a Keras optimizer, its name or
            its config: distopt's optimizer of the same name takes its place. A Keras optimizer that has stepped
            already hands over its state.
        name: by default the name of ``optimizer``.

    Attributes:
        inner: the optimizer of distopt; its variables hold the slots.

    Raises:
        InvalidArgumentError: the optimizer has no counterpart in distopt, or is one of the legacy family.

    Example:
        >>> from distopt.adapters.keras import ReplicaCallback, Shares
        >>> layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input([2]), layer])
        >>> model.compile(optimizer=DistributedOptimizer(optimizers.SGD(0.5)), loss="mse")
        >>> x, y = np.eye(2), np.zeros([2, 1])
        >>> _ = model.fit(Shares(x, y, global_batch_size=2), verbose=0, callbacks=[ReplicaCallback()])
        >>> layer.kernel.value.tolist()
        [[0.5], [0.5]]
    """

    def __init__(self, optimizer: Any, name: str | None = None) -> None:
        inner, state = counterpart(optimizer)
        rate: Any = getattr(inner, "learning_rate", None)  # a MultiOptimizer has none
        is_number = isinstance(rate, Variable)
        super().__init__(float(rate) if is_number else functools.partial(current_rate, inner), name=name or inner.name)
        self._exclusions = Exclusions(optimizer, inner)
        self.inner = inner
        self._distopt_belonging = belonging_of(inner)
        self._rate = self.learning_rate if is_number else None
        self._state_to_load = state
        self._left: list[Any] = []
        self._is_attended = False

    # What Keras calls

    @in_own_scope
    def build(self, variables: Sequence[Any]) -> None:
        """Take replica 0's values of the variables and make the slots; a collective, which ``fit`` calls.

        Args:
            variables: the trained variables of a model, the same on every replica.
        """
        if self.built:
            return
        with telling_the_others(get_strategy().ready()):
            if not variables:
                raise InvalidArgumentError("the model has no trainable variables: there is nothing to train")
            for variable in variables:
                if getattr(variable, "overwrite_with_gradient", False):
                    raise InvalidArgumentError(
                        f"variable {variable.path!r} is overwritten by its gradient (float8 training), which has no "
                        "meaning across replicas: use another dtype policy"
                    )
            self._trained = _backend.TrainedVariables(variables)
            for variable, ours in zip(variables, self._trained.variables, strict=True):
                if variable.constraint is not None:
                    ours.constraint = functools.partial(constrained, variable.constraint)
        if get_strategy().broadcast and num_replicas() > 1:  # Keras models are made without a seed, or loaded
            broadcast(self._trained.variables)
        self._exclusions.carry_over(variables, self._trained.variables)
        self.inner.build(self._trained.variables)
        if self._state_to_load:
            self.inner.set_weights(self._state_to_load)
        self._trained.attach(self.inner)
        self._loss_scale = self.add_variable((), initializer="ones", name="loss_scale")
        if _backend.LEAVES_GRADIENTS:
            self._left_steps = self.add_variable((), dtype="int32", name="left_steps")
            self._left = [self.add_variable_from_reference(variable, "gradient") for variable in variables]
        super().build(variables)
        self._follow_inner()

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Do one step. Every replica calls it. Under JAX's compiler, leave the gradients to ``ReplicaCallback``.

        Args:
            grads: this replica's gradients.
            trainable_variables: the variables that the optimizer was built for, or None.

        Raises:
            InvalidArgumentError: other variables; compiled without ``ReplicaCallback``; gradients that do not fit.
            CollectiveMismatchError: replicas disagree on the call (on every replica).
        """
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        self.build(variables)
        _backend.uncompiled(self._apply)(grads, variables)

    @in_own_scope
    def _apply(self, grads: Sequence[Any], variables: Sequence[Any]) -> None:
        with telling_the_others(get_strategy().ready()):
            grads = in_order(grads, variables, self._trainable_variables)
            is_traced = _backend.are_traced(grads)
            if is_traced and not self._is_attended:
                raise InvalidArgumentError(
                    "the training step is compiled by jax.jit, and a step of distopt communicates: pass "
                    "fit(..., callbacks=[distopt.adapters.keras.ReplicaCallback()]), which makes it after each batch; "
                    "elsewhere, as for train_on_batch, compile(run_eagerly=True)"
                )
        if not is_traced:
            self._step(grads)
            return
        for variable, gradient in zip(self._left, grads, strict=True):
            variable.assign(gradient)
        self._left_steps.assign(self._left_steps + 1)

    def scale_loss(self, loss: Any) -> Any:
        """Return the loss times the loss scale of the inner optimizer."""
        return loss if engine_of(self.inner).training.loss_scale is None else loss * self._loss_scale

    def finalize_variable_values(self, var_list: Iterable[Any]) -> None:
        """Overwrite the weights by their averages, where the inner optimizer keeps averages; ``fit`` ends with it.

        Args:
            var_list: ignored; all variables that the optimizer was built for are overwritten.

        Raises:
            InvalidArgumentError: gradients were computed, and no ``ReplicaCallback`` made the steps.
        """
        was_attended, self._is_attended = self._is_attended, False
        has_failed = sys.exception() is not None  # there is a better message then, and perhaps no value to read
        if self._left and not was_attended and not has_failed and number(self._left_steps):
            raise InvalidArgumentError(
                f"{number(self._left_steps)} steps were computed and none was made: pass "
                "fit(..., callbacks=[distopt.adapters.keras.ReplicaCallback()]) each time"
            )
        parts: Sequence[Any] = parts_of(self.inner)
        if any(part.use_ema for part in parts):
            self.inner.finalize_variable_values(self._trained.variables)
            self._trained.write()

    def exclude_from_weight_decay(
        self, var_list: Iterable[Any] | None = None, var_names: Iterable[str] | None = None
    ) -> None:
        """Leave weights out of the inner optimizer's decay, before the first ``fit``, in place of earlier ones.

        Args:
            var_list: variables to leave out.
            var_names: patterns; a variable is left out if one is found in its path, such as "sequential/dense/bias".
        """
        self._exclusions.replace(var_list, var_names)

    @property
    def learning_rate(self) -> Any:
        """Return the variable, which can be set, or the current value of the inner optimizer's schedule."""
        return super().learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if callable(value) or self._rate is None:
            raise InvalidArgumentError(
                f"learning_rate={value!r}: a number can be set over a number, and schedules neither set nor replaced. "
                "Give the schedule to the optimizer that DistributedOptimizer is made from"
            )
        self._rate.assign(value)

    @property
    def loss_scale_factor(self) -> None:
        """Return None: the inner optimizer keeps the loss scale."""
        return

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: Any) -> None:
        if "inner" in vars(self):
            raise InvalidArgumentError(
                "a loss scale around DistributedOptimizer, as compile() puts it there for mixed_float16, would leave "
                "out a step on one replica alone: compile(auto_scale_loss=False), and give the loss scale to the "
                "optimizer that DistributedOptimizer is made from"
            )

    # State

    def save_own_variables(self, store: Any) -> None:
        """Write the inner optimizer's state, in Keras' order; with ``update="shared"`` a collective."""
        self._follow_learning_rate()
        for k, weight in enumerate(self.inner.get_weights()):
            store[str(k)] = weight

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Read what ``save_own_variables`` of this class, or of the Keras optimizer of the same name, wrote.

        Raises:
            InvalidArgumentError: the state of another optimizer, or for other variables; nothing has been changed.
        """
        self.set_weights([store[str(k)] for k in range(len(store.keys()))])

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the inner optimizer's state; with ``update="shared"`` a collective.

        Args:
            weights: arrays in Keras' order: iteration, learning rate (unless there is a schedule), slots; not changed.
        """
        self.inner.set_weights([np.asarray(weight) for weight in weights])
        self._follow_inner()

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs, as JSON can hold them."""
        self._follow_learning_rate()
        return {"name": self.name, "optimizer": optimizers.serialize(self.inner)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        """Make an optimizer from what ``get_config`` returned (not changed)."""
        return cls(optimizers.deserialize(config["optimizer"], custom_objects), name=config["name"])

    # The step

    def attend(self, variables: Sequence[Any]) -> None:
        """Note that a callback makes the steps of compiled training; check the order, all that JAX knows of them."""
        for theirs, ours in zip(variables, self._trainable_variables, strict=False):
            if self._left and theirs is not ours:
                raise unknown(theirs)
        self._is_attended = True

    @in_own_scope
    def _step(self, grads: Sequence[Any]) -> None:
        self._follow_learning_rate()
        with telling_the_others(get_strategy().ready()):
            gradients = self._trained.read(grads)
        self.inner.apply_gradients(zip(gradients, self._trained.variables, strict=True), items=1)
        self._trained.write()
        self._follow_inner()

    def step_of_left_gradients(self) -> None:
        """Do one step with the gradients that a compiled ``apply`` has left."""
        if not self._left:
            return
        steps = number(self._left_steps)
        self._left_steps.assign(0)
        if steps > 1:
            raise InvalidArgumentError(
                f"the gradients of {steps} batches were computed without a step between them: on the JAX backend "
                "steps_per_execution above 1 and train_on_batch need compile(run_eagerly=True)"
            )
        if steps:
            self._step([variable.value for variable in self._left])

    def _follow_learning_rate(self) -> None:
        """Take over a learning rate that was set in Keras."""
        if self._rate is not None and (rate := number(self._rate)) != float(self.inner.learning_rate):
            self.inner.learning_rate = rate

    def _follow_inner(self) -> None:
        """Copy the inner optimizer's counters into the variables of Keras."""
        self._iterations.assign(int(self.inner.iterations))
        scale = engine_of(self.inner).training.loss_scale
        if scale is not None:
            self._loss_scale.assign(scale.factor)
        if self._rate is not None:
            self._rate.assign(float(self.inner.learning_rate))
