"""The options of every optimizer of the Keras 3 family: limits, loss scale, accumulation, averages, configs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from distopt.arguments import divisor
from distopt.engine.state.family import RuleCall
from distopt.engine.state.loss_scale import LossScale
from distopt.engine.state.options import StepOptions
from distopt.errors import InvalidArgumentError
from distopt.memory.flat_buffer import FlatBuffer
from distopt.optimizers.common.attributes import as_constructed, warn_of_misspelt
from distopt.optimizers.common.rule_updates import DECAYED, MASTERED
from distopt.optimizers.keras3.learning_rate import LearningRate
from distopt.optimizers.keras3.master_weights import MASTER_SLOT, MasterWeights
from distopt.optimizers.keras3.moving_average import AVERAGE_SLOT, MovingAverage
from distopt.optimizers.keras3.state import State
from distopt.optimizers.keras3.weight_decay import WeightDecay
from distopt.optimizers.schedules.serialization import deserialize
from distopt.variables.variable import Variable


class Options(State):
    """The options that all optimizers of the Keras 3 family share, as attributes; not for users.

    Args:
        name: the optimizer's name.
        options: the options of a step that the user has given.
        learning_rate: the learning rate.
        weight_decay: the decay of weights.
        moving_average: the averages of weights.
        master_weights: the exact copies of weights of 16 bits.
    """

    _distopt_hyperparameters: ClassVar[tuple[str, ...]] = ()
    """The constructor's own arguments, which are attributes, agreed on and in the config."""
    _distopt_settled_when_built: ClassVar[tuple[str, ...]] = ("master_weights",)
    """The options that decide which variables have which slots."""
    _distopt_second_moments: ClassVar[tuple[str, ...]] = ()
    """The labels of the slots that hold sums or means of squared gradients."""

    def __init__(
        self,
        name: str,
        options: StepOptions,
        learning_rate: LearningRate,
        weight_decay: WeightDecay,
        moving_average: MovingAverage,
        master_weights: MasterWeights,
    ) -> None:
        super().__init__(name, options, learning_rate)
        self._distopt_own_weight_decay, self._distopt_own_moving_average, self._distopt_own_master_weights = (
            weight_decay,
            moving_average,
            master_weights,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an option, checked as in the constructor; with slots, refuse a value that would need other slots."""
        if name in self._distopt_hyperparameters and name in self.__dict__:
            value = as_constructed(self, name, value, beside=self._distopt_hyperparameters)
        is_option = name in self._distopt_hyperparameters or name in self._distopt_settled_when_built
        if not is_option or not self.__dict__.get("built"):
            if name[0] != "_":
                warn_of_misspelt(self, name)
            super().__setattr__(name, value)
            return
        before, labels = getattr(self, name), self.rule_slots()
        super().__setattr__(name, value)
        lacking = {*self.rule_slots()} - {*labels} - {label for _, label in self._distopt_engine.slots.table}
        if lacking or (name in self._distopt_settled_when_built and getattr(self, name) != before):
            super().__setattr__(name, before)
            raise InvalidArgumentError(
                f"{name} = {value!r}: optimizer {self.name!r} was built with {name} = {before!r} and lacks the slots "
                "that this needs. Set it in the constructor, or before the first step"
            )
        self._distopt_engine.note_changed_options()

    @property
    def weight_decay(self) -> float | None:
        """Return λ, or None; another number can be set at any time."""
        return self._distopt_own_weight_decay.rate

    @weight_decay.setter
    def weight_decay(self, value: float | None) -> None:
        if self.built and (value is None) != (self._distopt_own_weight_decay.rate is None):
            raise InvalidArgumentError(
                f"weight_decay={value!r}: optimizer {self.name!r} was built {'with' if value is None else 'without'} "
                "weight decay. Set a number (0 for none) when you make it"
            )
        self._distopt_own_weight_decay.set(value)

    def exclude_from_weight_decay(
        self, var_list: Iterable[Variable] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Leave weights out of the decay; a second call replaces the first.

        Args:
            var_list: variables to leave out.
            var_names: regular expressions; a variable is left out if one of them is found in its name. One that is
                found in no name is a warning when the optimizer is built.

        Raises:
            InvalidArgumentError: the optimizer is built already (Keras 3 intends this error, but does not raise it);
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
        self._distopt_own_weight_decay.spare(var_list, var_names)

    def _distopt_weight_decay_of(self, variable: Variable) -> float:
        """Return λ of one variable that is updated by a method, not by a rule."""
        rate = self._distopt_own_weight_decay.rate
        return rate if rate is not None and self._use_weight_decay(variable) else 0.0

    def _use_weight_decay(self, variable: Variable) -> bool:
        """Return whether a variable decays where there is a decay."""
        return not self._distopt_own_weight_decay.spares(variable)

    def _distopt_variant_of(self, variable: Variable) -> int:
        decays = 0 if self._distopt_hooks.decays else self._distopt_own_weight_decay.variant_of(variable)
        return decays | self._distopt_own_master_weights.variant_of(variable)

    def _distopt_slot_dtype(self, variable: Variable) -> np.dtype[Any]:
        return self._distopt_own_master_weights.slot_dtype(variable)

    def _distopt_varied(self, call: RuleCall, buffer: FlatBuffer, variant: int) -> RuleCall:
        if variant & DECAYED:
            call = self._distopt_own_weight_decay.extended(call, float(self._distopt_own_learning_rate.of_step))
        if variant & MASTERED:
            call = self._distopt_own_master_weights.extended(call, buffer, self._distopt_engine.slots)
        return call

    @property
    def use_ema(self) -> bool:
        """Return whether averages are kept, as the constructor was told."""
        return self._distopt_own_moving_average.is_kept

    @property
    def ema_momentum(self) -> float:
        """Return μ of the average; another number can be set at any time."""
        momentum: float = self._distopt_own_moving_average.momentum
        return momentum

    @ema_momentum.setter
    def ema_momentum(self, value: float) -> None:
        self._distopt_own_moving_average.set(value, self.ema_overwrite_frequency)

    @property
    def ema_overwrite_frequency(self) -> int | None:
        """Return the number of steps after which averages overwrite weights, or None; it can be set at any time."""
        frequency: int | None = self._distopt_own_moving_average.overwrite_frequency
        return frequency

    @ema_overwrite_frequency.setter
    def ema_overwrite_frequency(self, value: int | None) -> None:
        self._distopt_own_moving_average.set(self.ema_momentum, value)

    def finalize_variable_values(self, var_list: Iterable[Variable]) -> None:
        """Overwrite variables by their averages, after training; with ``update="shared"`` a collective.

        Args:
            var_list: the variables; changed. Without ``use_ema``, and before the first step, nothing is done. Weights
                are averaged before their constraints are applied, as in Keras.

        Raises:
            InvalidArgumentError: a variable for which the optimizer was not built.

        Example:
            >>> import distopt
            >>> w = distopt.Variable([1.0])
            >>> sgd = distopt.optimizers.SGD(learning_rate=1.0, use_ema=True, ema_momentum=0.5)
            >>> for _ in range(2):
            ...     _ = sgd.apply_gradients([([1.0], w)])
            >>> sgd.finalize_variable_values([w])
            >>> float(w[0])
            -0.5
        """
        variables = [var_list] if isinstance(var_list, Variable) else list(var_list)
        if not self.use_ema or self._distopt_step_number == 1:
            return
        for variable in variables:
            self._get_variable_index(variable)
        call = f"finalize_variable_values of {type(self).__name__}"
        slots = self._distopt_engine.slots
        averaged = [variable for variable in variables if (variable, AVERAGE_SLOT) in slots.table]
        self._distopt_own_moving_average.overwrite(averaged, slots, call)

    @property
    def master_weights(self) -> bool:
        """Return whether variables of 16 bits are updated through exact copies in float32."""
        return self._distopt_own_master_weights.are_kept

    @master_weights.setter
    def master_weights(self, value: bool) -> None:
        self._distopt_own_master_weights.set(value)

    def _distopt_make_variables(self) -> None:
        self._distopt_make_averages_and_accumulators()
        super()._distopt_make_variables()
        self._distopt_make_masters()
        self._distopt_own_weight_decay.warn_of_idle(self.name, self._trainable_variables)
        moments = [
            slot
            for (_, label), slot in self._distopt_engine.slots.table.items()
            if label in self._distopt_second_moments
        ]
        self._distopt_own_master_weights.warn_of_underflow(self.name, moments, updates_flat=self._distopt_is_flat)

    @property
    def _distopt_stepped(self) -> list[Variable]:
        """Return the variables that are updated and averaged: not those that their gradients overwrite."""
        return [each for each in self._trainable_variables if not self._overwrite_variable_with_gradient(each)]

    def _distopt_make_averages_and_accumulators(self) -> None:
        if self.use_ema:
            begins = self._distopt_own_moving_average.begins_with_weights
            for variable in self._distopt_stepped:
                first = (lambda shape, dtype, v=variable: v.storage.array) if begins else "zeros"
                self._distopt_add_slot(variable, AVERAGE_SLOT, first)
        accumulation = self._distopt_engine.training.accumulation
        if accumulation is not None:
            for variable in self._trainable_variables:
                name = f"{self.name}/{variable.path.replace('/', '_')}_gradient_accumulator"
                self._track_variable(accumulation.make_sum(variable, name))

    def _distopt_make_masters(self) -> None:
        for variable in filter(self._distopt_own_master_weights.has, self._trainable_variables):
            self._distopt_own_master_weights.check(variable, updates_flat=self._distopt_is_flat)
            self._distopt_add_slot(variable, MASTER_SLOT, lambda shape, dtype, v=variable: v.storage.array)
            self._distopt_own_master_weights.note_made(variable)

    def __getstate__(self) -> dict[str, Any]:
        self._distopt_own_master_weights.renew(self._distopt_engine.slots)
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._distopt_own_master_weights.note(self._distopt_engine.slots)

    def _distopt_refuse_limit(self, name: str, value: float) -> None:
        others = {other: limit for other, limit in vars(self._distopt_engine.options.clipping).items() if other != name}
        if any(limit is not None for limit in others.values()):
            raise InvalidArgumentError(f"{name}={value!r}: one limit at a time; {self.name!r} has {others}")

    @property
    def loss_scale_factor(self) -> float | None:
        """Return the factor by which the loss is multiplied, or None."""
        training = self._distopt_engine.training
        return None if training.loss_scale is None or training.skips_nonfinite else training.loss_scale.factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: float | None) -> None:
        owner = type(self).__name__
        scale = None if value is None else LossScale(divisor(owner, "loss_scale_factor", value))
        self._distopt_engine.training.scale_by(scale)

    @property
    def gradient_accumulation_steps(self) -> int | None:
        """Return the number of calls that make a step, or None."""
        accumulation = self._distopt_engine.training.accumulation
        return None if accumulation is None else accumulation.steps

    def scale_loss(self, loss: Any) -> Any:
        """Return a loss multiplied by the loss scale."""
        scale = self._distopt_engine.training.loss_scale
        return loss if scale is None else loss * scale.factor

    def _distopt_identity(self) -> str:
        fixed = ("use_ema", "gradient_accumulation_steps", "master_weights")
        options = [f"{name}={getattr(self, name)}" for name in fixed if getattr(self, name)]
        spared = [
            variable.name for variable in self._trainable_variables if self._distopt_own_weight_decay.spares(variable)
        ]
        return ", ".join([super()._distopt_identity(), *options, *([f"no decay of {spared}"] if spared else [])])

    # Serialisation

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs, as JSON can hold them; hooks are not part of it."""
        base = {"name": self.name, "learning_rate": self._distopt_own_learning_rate.config()} | {
            name: getattr(self, name) for name in _OPTIONS
        }
        base |= vars(self._distopt_engine.options.clipping) | ({"master_weights": True} if self.master_weights else {})
        return base | {name: getattr(self, name) for name in self._distopt_hyperparameters}

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


_OPTIONS = (
    *("weight_decay", "use_ema", "ema_momentum", "ema_overwrite_frequency"),
    *("loss_scale_factor", "gradient_accumulation_steps"),
)
