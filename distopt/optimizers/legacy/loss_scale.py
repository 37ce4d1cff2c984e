"""Loss scaling of the legacy family: an optimizer around another."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from operator import methodcaller
from typing import Any, Self

import numpy as np

from distopt.arguments import count, divisor
from distopt.engine.state.loss_scale import LossScale
from distopt.errors import InvalidArgumentError
from distopt.optimizers.by_name.serialization import serialize
from distopt.optimizers.common.access import engine_of
from distopt.optimizers.common.attributes import warn_of_misspelt
from distopt.optimizers.common.overrides import is_overridden
from distopt.optimizers.common.shown import as_call
from distopt.optimizers.legacy.base.optimizer import Optimizer
from distopt.optimizers.legacy.former_configs import config_of_tensorflow_2_3
from distopt.optimizers.legacy.serialization import deserialize
from distopt.slabs.fitting import Pair
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable

_INITIAL_SCALE, _GROWTH_STEPS = 2.0**15, 2000
_FIXED = frozenset(
    ("loss_scale", "dynamic", "dynamic_growth_steps", "dynamic_counter", "initial_scale", "inner_optimizer")
)
"""The attributes that can't be set."""


class _Unscaled(LossScale):
    """The inner optimizer's view of the loss scale: its gradients come already divided by the scale."""

    def __init__(self, scale: LossScale, optimizer: Optimizer) -> None:
        self.growth_steps, self.step_counter, self.scale = scale.growth_steps, scale.step_counter, scale.scale
        self._loss_scale, self._optimizer = scale, optimizer

    @property
    def factor(self) -> float:
        return 1.0

    @property
    def is_at_end(self) -> bool:
        return self._loss_scale.is_at_end

    def tells_of_end(self) -> bool:
        return self._loss_scale.tells_of_end()

    def note(self, *, is_finite: bool) -> None:
        self._loss_scale.note(is_finite=is_finite)
        if self.is_dynamic and not is_finite:
            self._optimizer.iterations.storage.array += 1  # a step that is left out counts in this family


class LossScaleOptimizer(Optimizer):
    """An optimizer for losses that are multiplied by a scale s, so that gradients of 16 bits do not vanish.

    ``minimize`` does all that is needed. With a tape, call ``get_scaled_loss`` before the gradients are computed, and
    ``get_unscaled_gradients`` before they are applied; clipping, aggregators and transformers see unscaled gradients.
    If the sum over replicas is not finite, the step is skipped on every replica, but counted, and
    ``s ← max(s / 2, 1)``; after ``dynamic_growth_steps`` finite steps in a row, ``s ← 2 s``, if that is finite.

    Hyperparameters, slots, weights and ``iterations`` belong to the inner optimizer: reading or setting them here reads
    or sets them there. The scale is not among the weights, but a checkpoint has it.

    Args:
        inner_optimizer: a legacy optimizer; it must not be stepped on its own.
        dynamic: whether s follows the gradients; if not, no step is skipped.
        initial_scale: s of the first step; None means 2¹⁵, and is allowed only where s is dynamic.
        dynamic_growth_steps: steps until s is doubled; None means 2000, and is the only choice where s is not dynamic.

    Raises:
        TypeError: the inner optimizer is no optimizer, or has a loss scale; ``dynamic`` is no bool.
        InvalidArgumentError: the inner optimizer is inside of another one; an impossible value.

    Example:
        >>> import distopt
        >>> v = distopt.Variable([1.0])
        >>> optimizer = LossScaleOptimizer(distopt.optimizers.legacy.SGD(0.25), initial_scale=4.0)
        >>> with distopt.GradientTape() as tape:
        ...     loss = optimizer.get_scaled_loss(v * v)
        >>> gradients = optimizer.get_unscaled_gradients(tape.gradient(loss, [v]))
        >>> _ = optimizer.apply_gradients(zip(gradients, [v]))
        >>> _ = optimizer.apply_gradients([([float("inf")], v)])
        >>> v.numpy(), optimizer.loss_scale, int(optimizer.iterations)
        (array([0.5], dtype=float32), 2.0, 2)

    Source: ``tf_keras.mixed_precision.LossScaleOptimizer``; Micikevicius et al. 2018.
    """

    inner_optimizer: Optimizer
    _distopt_initial_scale: float
    _distopt_scale: LossScale
    _distopt_done: set[str]

    def __init__(
        self,
        inner_optimizer: Optimizer,
        dynamic: bool = True,
        initial_scale: float | None = None,
        dynamic_growth_steps: int | None = None,
    ) -> None:
        owner = "LossScaleOptimizer"
        if is_overridden(type(self), "_apply_gradients"):
            raise InvalidArgumentError(
                f"{type(self).__name__} overrides _apply_gradients, which distopt does not call: override "
                "apply_gradients, or _transform_gradients of the inner optimizer, which sees the sum"
            )
        if not isinstance(inner_optimizer, Optimizer) or isinstance(inner_optimizer, LossScaleOptimizer):
            raise TypeError(
                f"{owner}: received {inner_optimizer!r} as inner_optimizer: expected a legacy optimizer without a loss "
                "scale (for one of the Keras 3 family take distopt.optimizers.LossScaleOptimizer)"
            )
        if not isinstance(dynamic, bool):
            raise TypeError(f"{owner}(dynamic={dynamic!r}): expected True or False; the scale itself is initial_scale")
        if engine_of(inner_optimizer).training.loss_scale is not None:
            raise InvalidArgumentError(
                f"{owner}: {inner_optimizer.name!r} is inside of another {owner} already: make one of its own for it"
            )
        if not dynamic and (initial_scale is None or dynamic_growth_steps is not None):
            raise InvalidArgumentError(
                f"{owner}(dynamic=False, initial_scale={initial_scale!r}, dynamic_growth_steps="
                f"{dynamic_growth_steps!r}): a fixed scale needs initial_scale, and does not grow"
            )
        factor = divisor(owner, "initial_scale", _INITIAL_SCALE if initial_scale is None else initial_scale)
        steps = _GROWTH_STEPS if dynamic_growth_steps is None else dynamic_growth_steps
        scale = LossScale(factor, count(owner, "dynamic_growth_steps", steps, 1) if dynamic else None, least=1.0)
        engine_of(inner_optimizer).training.scale_by(_Unscaled(scale, inner_optimizer))
        self.__dict__.update(
            inner_optimizer=inner_optimizer, _distopt_initial_scale=factor, _distopt_scale=scale, _distopt_done=set()
        )

    # Everything that is not defined here is the inner optimizer's.

    def __getattribute__(self, name: str) -> Any:
        mine = object.__getattribute__
        is_own = name.startswith("__") or name in mine(self, "__dict__")
        if is_own or getattr(type(self), name, None) is not getattr(Optimizer, name, None):
            return mine(self, name)
        return getattr(mine(self, "inner_optimizer"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED:
            raise AttributeError(
                f"{name} of a LossScaleOptimizer can't be set: make a new one, LossScaleOptimizer(inner_optimizer, "
                "dynamic, initial_scale, dynamic_growth_steps)"
            )
        inner = self.inner_optimizer
        if self._distopt_is_own(name) or not (hasattr(type(inner), name) or hasattr(inner, name)):
            if name not in self.__dict__:
                warn_of_misspelt(inner, name)
            object.__setattr__(self, name, value)
        else:
            setattr(inner, name, value)

    def _distopt_is_own(self, name: str) -> bool:
        return name in self.__dict__ or getattr(type(self), name, None) is not getattr(Optimizer, name, None)

    def __repr__(self) -> str:
        return as_call(self, self._distopt_shown_with_inner)

    def _distopt_shown_with_inner(self) -> dict[str, Any]:
        names = ("inner_optimizer", "dynamic", "initial_scale", "dynamic_growth_steps")
        return {name: getattr(self, name) for name in names}

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *dir(self.inner_optimizer)})

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    # The scale

    @property
    def loss_scale(self) -> float:
        """Return the current scale s."""
        return self._distopt_scale.factor

    @property
    def initial_scale(self) -> float:
        """Return the scale of the first step."""
        return self._distopt_initial_scale

    @property
    def dynamic(self) -> bool:
        """Return whether s follows the gradients."""
        return self._distopt_scale.is_dynamic

    @property
    def dynamic_growth_steps(self) -> int | None:
        """Return the number of steps until s is doubled; None where s is not dynamic."""
        return self._distopt_scale.growth_steps

    @property
    def dynamic_counter(self) -> Variable | None:
        """Return the number of steps since s was changed, an int64 Variable; None where s is not dynamic."""
        return self._distopt_scale.step_counter if self.dynamic else None

    def get_scaled_loss(self, loss: Any) -> Any:
        """Return a loss times s; for a function that returns a loss, the function that returns it times s."""
        self._distopt_done.add("get_scaled_loss")
        if callable(loss):
            return lambda: loss() * self.loss_scale
        return loss * self.loss_scale

    def get_unscaled_gradients(self, grads: Sequence[Any]) -> list[Any]:
        """Return gradients divided by s.

        Args:
            grads: arrays, IndexedSlices or None; not changed.

        Returns:
            A list of new gradients, of the same dtypes.
        """
        self._distopt_done.add("get_unscaled_gradients")
        return [_divided(gradient, self.loss_scale) for gradient in grads]

    # The step

    def minimize(
        self,
        loss: Any,
        var_list: Sequence[Variable] | Callable[[], Sequence[Variable]],
        grad_loss: Any = None,
        name: str | None = None,
        tape: Any = None,
    ) -> Variable:
        """Scale a loss, differentiate it, and do one step with the unscaled gradients, as in ``Optimizer``."""
        return super().minimize(loss, var_list, grad_loss, name, tape)

    def _compute_gradients(self, loss: Any, var_list: Any, grad_loss: Any = None, tape: Any = None) -> list[Pair]:
        if tape is not None or callable(loss):  # else the inner optimizer says what is missing
            loss = self.get_scaled_loss(loss)
        compute = methodcaller("_compute_gradients", loss, var_list, grad_loss, tape)
        pairs = compute(self.inner_optimizer)
        gradients = self.get_unscaled_gradients([gradient for gradient, _ in pairs])
        return list(zip(gradients, (variable for _, variable in pairs), strict=True))

    def get_gradients(self, loss: Any, params: Any) -> list[Any]:
        """Return the gradients of a loss, a function, computed from the scaled loss and divided by s."""
        return self.get_unscaled_gradients(self.inner_optimizer.get_gradients(self.get_scaled_loss(loss), params))

    def get_updates(self, loss: Any, params: Any) -> list[Variable]:
        """Do one step with the gradients of ``get_gradients``; return ``iterations`` in a list."""
        return super().get_updates(loss, params)

    def apply_gradients(
        self,
        grads_and_vars: Iterable[Pair],
        name: str | None = None,
        experimental_aggregate_gradients: bool = True,
        *,
        items: float | None = None,
    ) -> Variable:
        """Do one step with unscaled gradients, as in ``Optimizer``.

        There is one warning if ``get_scaled_loss`` or ``get_unscaled_gradients`` has never been called.
        """
        forgotten = [name for name in ("get_scaled_loss", "get_unscaled_gradients") if name not in self._distopt_done]
        if forgotten:
            self._distopt_done.update(forgotten)
            warnings.warn(
                f"LossScaleOptimizer.apply_gradients was called, and {' and '.join(forgotten)} never before: multiply "
                "the loss by the scale and divide its gradients by it, or call minimize, which does both",
                stacklevel=2,
            )
        # Only what was given: the inner optimizer's method may be one of the user's, with upstream's arguments.
        given: dict[str, Any] = {} if name is None else {"name": name}
        if not experimental_aggregate_gradients:
            given["experimental_aggregate_gradients"] = False
        if items is not None:
            given["items"] = items
        return self.inner_optimizer.apply_gradients(grads_and_vars, **given)

    # Serialisation

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs, as JSON can hold them; the scale is ``initial_scale``."""
        return {
            "inner_optimizer": serialize(self.inner_optimizer),
            "dynamic": self.dynamic,
            "initial_scale": self.initial_scale,
            "dynamic_growth_steps": self.dynamic_growth_steps,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Make an optimizer from what ``get_config`` returned (not changed).

        Args:
            config: the arguments; those of TensorFlow 2.0 to 2.3 (``optimizer``, ``loss_scale``) are understood too.
            custom_objects: classes of optimizers and schedules of your own, by name.
        """
        arguments = config_of_tensorflow_2_3(config) if "loss_scale" in config else dict(config)
        inner = arguments.pop("inner_optimizer")
        made = inner if isinstance(inner, Optimizer) else deserialize(inner, custom_objects)
        return cls(made, **arguments)


def _divided(gradient: Any, scale: float) -> Any:
    if gradient is None or isinstance(gradient, IndexedSlices):
        return gradient if gradient is None else gradient / scale
    array = np.asarray(gradient)
    return (array / np.float32(scale)).astype(array.dtype, copy=False)  # 2¹⁶ is infinite in float16
