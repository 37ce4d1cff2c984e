"""Dynamic loss scaling, Keras 3 family."""

from __future__ import annotations

from typing import Any, Self

from distopt.arguments import count, divisor
from distopt.engine.state.loss_scale import LossScale
from distopt.errors import InvalidArgumentError
from distopt.optimizers.by_name.serialization import deserialize, serialize
from distopt.optimizers.common.access import engine_of
from distopt.optimizers.keras3.composite import Composite
from distopt.optimizers.keras3.optimizer import Optimizer
from distopt.variables.variable import Variable

_SMALLEST = 2.0**-126
"""The smallest scale: below it float32 loses digits, and in the end a gradient would be divided by zero."""


_ONCE_SAVED = {
    "weight_decay": None,
    "clipnorm": None,
    "global_clipnorm": None,
    "clipvalue": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}
"""Arguments without effect that early versions of Keras 3 wrote into configs."""


class LossScaleOptimizer(Composite):
    """An optimizer for scaled losses: the scale grows while gradients stay finite and halves when they do not.

    The aggregated gradients are divided by the scale s. If one of them is not finite, ``s ← s / 2`` and the step is
    skipped on every replica: nothing changes, and ``iterations`` does not count the step. After
    ``dynamic_growth_steps`` steps in a row with finite gradients, ``s ← 2 s``. Clipping, decay and averages see the
    unscaled sum.

    Args:
        inner_optimizer: the optimizer; its own ``loss_scale_factor`` is switched off.
        initial_scale: s of the first step.
        dynamic_growth_steps: steps until s is doubled.
        name: the optimizer's name.
        **kwargs: ``gradient_aggregator`` and ``gradient_transformers``, as in ``Optimizer``.

    Raises:
        InvalidArgumentError: an argument that belongs to the inner optimizer; an object that can't be an inner one.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([1.0])
        >>> optimizer = LossScaleOptimizer(distopt.optimizers.SGD(0.5), initial_scale=4.0)
        >>> _ = optimizer.minimize(lambda: optimizer.scale_loss(w * w), [w])
        >>> w.numpy()
        array([0.], dtype=float32)
        >>> _ = optimizer.apply_gradients([([float("inf")], w)])
        >>> float(optimizer.dynamic_scale), int(optimizer.iterations)
        (2.0, 1)

    Source: Keras 3 ``keras.optimizers.LossScaleOptimizer``; there every replica checks its own gradients, the scale
    can reach infinity and zero, and ``minimize`` does not exist (here you scale its loss by hand, as for a tape). Where
    the inner optimizer accumulates, the sum of all micro-steps is checked, not each micro-step.
    """

    _distopt_not_called = (
        "check_finite",
        "_common_apply",
        "_tf_apply",
        "_stateful_handle_finite_grads",
        "_stateful_handle_non_finite_grads",
        "_stateless_handle_finite_grads",
        "_stateless_handle_non_finite_grads",
    )

    def __init__(
        self,
        inner_optimizer: Optimizer,
        initial_scale: float = 2.0**15,
        dynamic_growth_steps: int = 2000,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        owner = "LossScaleOptimizer"
        if not kwargs.pop("dynamic", True):
            raise InvalidArgumentError(
                f"{owner}(dynamic=False): a fixed scale is the loss_scale_factor of the inner optimizer: set it there"
            )
        for argument, default in _ONCE_SAVED.items():
            if argument in kwargs and kwargs[argument] == default:
                del kwargs[argument]
        unknown = kwargs.keys() - {"gradient_aggregator", "gradient_transformers"}
        if unknown:
            raise InvalidArgumentError(f"{owner}: {sorted(unknown)}: set such arguments on the `inner_optimizer`")
        super().__init__(0.0, name=name, **kwargs)
        self.inner_optimizer = self._distopt_usable_inner(inner_optimizer)
        self._distopt_inner = [self.inner_optimizer]
        training, inner = self._distopt_engine.training, engine_of(self.inner_optimizer).training
        training.accumulate_in(inner.accumulation)
        training.count_with(inner.iterations)
        self._distopt_initial_scale = divisor(owner, "initial_scale", initial_scale)
        growth_steps = count(owner, "dynamic_growth_steps", dynamic_growth_steps, 1)
        training.scale_by(LossScale(self._distopt_initial_scale, growth_steps, _SMALLEST))

    @property
    def _distopt_not_inside(self) -> type:
        return LossScaleOptimizer

    @property
    def initial_scale(self) -> float:
        """Return the scale of the first step; another can be set before it."""
        return self._distopt_initial_scale

    @initial_scale.setter
    def initial_scale(self, value: float) -> None:
        if self.built:
            raise InvalidArgumentError(
                f"initial_scale = {value!r}: optimizer {self.name!r} has begun with {self._distopt_initial_scale}: set "
                "the scale itself, optimizer.dynamic_scale.assign(value)"
            )
        self._distopt_initial_scale = divisor("LossScaleOptimizer", "initial_scale", value)
        self.dynamic_scale.assign(self._distopt_initial_scale)

    @property
    def dynamic_growth_steps(self) -> int:
        """Return the number of steps until the scale is doubled; another can be set at any time."""
        steps = self._distopt_scale.growth_steps
        assert steps is not None
        return steps

    @dynamic_growth_steps.setter
    def dynamic_growth_steps(self, value: int) -> None:
        self._distopt_scale.grow_after(count("LossScaleOptimizer", "dynamic_growth_steps", value, 1))
        self._distopt_engine.note_changed_options()

    @property
    def _distopt_scale(self) -> LossScale:
        scale = self._distopt_engine.training.loss_scale
        assert scale is not None
        return scale

    @property
    def dynamic_scale(self) -> Variable:
        """Return the scale s, a float32 Variable."""
        return self._distopt_scale.scale

    @property
    def step_counter(self) -> Variable:
        """Return the number of steps since s was changed."""
        return self._distopt_scale.step_counter

    def _distopt_inner_of(self, variable: Variable) -> Optimizer:
        return self.inner_optimizer

    def _distopt_make_averages_and_accumulators(self) -> None:
        self._track_variable(self.step_counter)
        self._track_variable(self.dynamic_scale)

    @property
    def iterations(self) -> Any:
        """Return the number of steps of the inner optimizer."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        """Return the inner optimizer's learning rate."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.inner_optimizer.learning_rate = value

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs."""
        return {
            "name": self.name,
            "inner_optimizer": serialize(self.inner_optimizer),
            "initial_scale": self.initial_scale,
            "dynamic_growth_steps": self.dynamic_growth_steps,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Make an optimizer from what ``get_config`` returned (not changed)."""
        if "inner_optimizer" not in config:
            raise InvalidArgumentError(f"LossScaleOptimizer wraps another: 'inner_optimizer' is missing in {config}")
        inner = deserialize(config["inner_optimizer"], custom_objects)
        return cls(**{**config, "inner_optimizer": inner})
