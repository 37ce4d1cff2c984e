"""What every optimizer of the Keras 3 family can do beside its rule: limits, loss scale, accumulation, configs."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from distopt.arguments import positive
from distopt.engine.state.loss_scale import LossScale
from distopt.errors import InvalidArgumentError
from distopt.optimizers.keras3.state import State
from distopt.optimizers.schedules.serialization import deserialize


class Options(State):
    """The options that all optimizers of the Keras 3 family share, as attributes; not for users."""

    _is_spared: Any
    weight_decay: Any
    ema_momentum: Any
    ema_overwrite_frequency: Any
    _hyperparameters: ClassVar[tuple[str, ...]] = ()
    """The constructor's arguments beyond those of this class, attributes of the same names: replicas must agree on
    those that are numbers, and the config holds all of them."""

    def _refuse_limit(self, name: str, value: float) -> None:
        others = {other: limit for other, limit in vars(self._engine.options.clipping).items() if other != name}
        if any(limit is not None for limit in others.values()):
            raise InvalidArgumentError(f"{name}={value!r}: one limit at a time; {self.name!r} has {others}")

    @property
    def loss_scale_factor(self) -> float | None:
        """What the loss was multiplied by, or None."""
        training = self._engine.training
        return None if training.loss_scale is None or training.skips_nonfinite else training.loss_scale.factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: float | None) -> None:
        owner = type(self).__name__
        scale = None if value is None else LossScale(positive(owner, "loss_scale_factor", value))
        self._engine.training.scale_by(scale)

    @property
    def gradient_accumulation_steps(self) -> int | None:
        """How many calls make a step, or None."""
        accumulation = self._engine.training.accumulation
        return None if accumulation is None else accumulation.steps

    def scale_loss(self, loss: Any) -> Any:
        """Return a loss multiplied by the loss scale."""
        scale = self._engine.training.loss_scale
        return loss if scale is None else loss * scale.factor

    def _identity(self) -> str:
        fixed = ("use_ema", "gradient_accumulation_steps", "master_weights")
        options = [f"{name}={getattr(self, name)}" for name in fixed if getattr(self, name)]
        spared = [variable.name for variable in self._trainable_variables if self._is_spared(variable)]
        return ", ".join([super()._identity(), *options, *([f"no decay of {spared}"] if spared else [])])

    def _changeable_options(self) -> dict[str, float]:
        """The options that may change from step to step, on all replicas alike."""
        options = {"weight_decay": self.weight_decay}
        if self.use_ema:
            options |= {"ema_momentum": self.ema_momentum, "ema_overwrite_frequency": self.ema_overwrite_frequency}
        return {name: float(value) for name, value in options.items() if value is not None}

    # Serialisation

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs, as JSON can hold them; hooks are not part of it."""
        base = {"name": self.name, "learning_rate": self._own_learning_rate.config()} | {
            name: getattr(self, name) for name in _OPTIONS
        }
        base |= vars(self._engine.options.clipping) | ({"master_weights": True} if self.master_weights else {})
        return base | {name: getattr(self, name) for name in self._hyperparameters}

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
    "weight_decay",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)
