"""Nadam, legacy family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from distopt.arguments import finite
from distopt.engine.state.family import RuleCall
from distopt.errors import InvalidArgumentError
from distopt.kernels import Rule
from distopt.optimizers.legacy.base.hyperparameters import ApplyState, below_one, checked_epsilon
from distopt.optimizers.legacy.base.optimizer import Optimizer
from distopt.optimizers.nadam import NADAM
from distopt.optimizers.schedules import LearningRateSchedule
from distopt.slabs.gradients import Gradients
from distopt.variables.variable import Variable


class Nadam(Optimizer):
    """Adam with Nesterov's momentum.

    ``μ_T = β₁ (1 - ½ 0.96^(δ T))`` and ``c ← c μ_T``, one number for all variables, in front of the slots in
    ``weights``. ``m ← m + (g - m)(1 - β₁)``, ``v ← v + (g² - v)(1 - β₂)``,
    ``w ← w - lr ((1 - μ_T) g / (1 - c) + μ_T₊₁ m / (1 - c μ_T₊₁)) / (√(v / (1 - β₂ᵀ)) + ε)``, T the number of this step
    from 1. Sparse gradients move the rows of w that they name, and all rows of m and v.

    Args:
        learning_rate: lr; a number or a function without arguments, no schedule.
        beta_1: β₁, decay of the first moment.
        beta_2: β₂, decay of the second.
        epsilon: ε; None and 0 mean 1e-7.
        name: the optimizer's name.
        schedule_decay: δ, how fast the momentum rises to β₁.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: a schedule; a beta outside 0 to 1, a negative epsilon or schedule_decay; at the first
            step, a beta_2 of 1.

    Example:
        >>> import distopt
        >>> v = distopt.Variable([10.0])
        >>> nadam = Nadam(learning_rate=0.2)
        >>> _ = nadam.minimize(lambda: (v**2) / 2.0, [v])
        >>> v.numpy().round(4), [w.name.split("/")[1] for w in nadam.weights]
        (array([9.7887], dtype=float32), ['iter', 'momentum_cache', 'm', 'v'])

    Source: Dozat 2016, as in ``tf_keras.optimizers.legacy.Nadam``. There ``decay`` is overwritten by schedule_decay and
    the config calls it ``decay``; here ``decay`` lowers the learning rate, as in all other classes, and the config has
    both. So ``from_config`` takes a config without ``schedule_decay`` for one of tf_keras.
    """

    _distopt_arguments = ("learning_rate", "decay", "beta_1", "beta_2", "epsilon", "schedule_decay")
    _distopt_fractions = ("beta_1", "beta_2")
    _distopt_second_moments = ("v",)

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: float | None = 1e-7,
        name: str = "Nadam",
        *,
        schedule_decay: float = 0.004,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("beta_1", beta_1)
        self._set_hyper("beta_2", beta_2)
        self.epsilon = checked_epsilon("Nadam", epsilon)
        self.schedule_decay = finite("Nadam", "schedule_decay", schedule_decay, low=0)
        self._distopt_momentum_cache: Variable | None = None
        self._m_cache_read: float | None = None

    def _set_hyper(self, name: str, value: Any) -> None:
        if isinstance(value, LearningRateSchedule):
            raise InvalidArgumentError(
                f"Nadam({name}={type(value).__name__}(...)): the legacy Nadam has a schedule of its own and takes no "
                "other, as in Keras. Use distopt.optimizers.Nadam"
            )
        super()._set_hyper(name, value)

    def _create_slots(self, var_list: Sequence[Variable]) -> None:
        if self._distopt_momentum_cache is None:
            name, dtype = f"{self._name}/momentum_cache", var_list[0].dtype
            self._distopt_momentum_cache = Variable(1.0, name=name, dtype=dtype, trainable=False)
            self._weights.append(self._distopt_momentum_cache)
        super()._create_slots(var_list)

    def _prepare(self, var_list: list[Variable]) -> ApplyState:
        self._m_cache_read = None if self._distopt_momentum_cache is None else float(self._distopt_momentum_cache)
        return super()._prepare(var_list)

    def _prepare_local(self, var_device: str, var_dtype: Any, apply_state: ApplyState) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        local, step = apply_state[var_device, var_dtype], self._distopt_step_number
        rate, beta_1 = float(local["lr_t"]), float(local["beta_1"])
        beta_2 = below_one(self._name, "beta_2", local["beta_2"])
        now, then = (beta_1 * (1 - 0.5 * 0.96 ** (self.schedule_decay * t)) for t in (step, step + 1))
        product = now * (1.0 if self._m_cache_read is None else self._m_cache_read)
        local.update(
            momentum_cache=product,
            gradient_factor=rate * (1 - now) / (1 - product),
            momentum_factor=rate * then / (1 - product * then),
            one_minus_beta_1=1 - beta_1,
            one_minus_beta_2=1 - beta_2,
            v_correction=1 - beta_2**step,
        )

    def _distopt_update(self, gradients: Gradients, *, dense_done: bool = False) -> None:
        super()._distopt_update(gradients, dense_done=dense_done)
        self._distopt_advance(next(iter(self._distopt_apply_state.values()), {}))

    def _distopt_call_on(self, var: Variable, apply_state: ApplyState | None) -> RuleCall:
        # An optimizer around this one calls _prepare and the updates, and _update never.
        call = super()._distopt_call_on(var, apply_state)
        self._distopt_advance(
            (apply_state or {}).get((var.device, var.dtype)) or self._fallback_apply_state(var.device, var.dtype)
        )
        return call

    def _distopt_advance(self, local: dict[str, Any]) -> None:
        if self._distopt_momentum_cache is not None and "momentum_cache" in local:
            self._distopt_momentum_cache.assign(local["momentum_cache"])

    def update_rule(self) -> Rule:
        return NADAM

    def rule_scalars(self, local: dict[str, Any]) -> Sequence[float]:
        return (*(local[name] for name in NADAM.scalars[:-1]), self.epsilon)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Make an optimizer from what ``get_config`` returned (not changed), here or in Keras.

        Args:
            config: the arguments; without ``schedule_decay``, ``decay`` is read as ``schedule_decay``.
            custom_objects: ignored, because the learning rate can't be a schedule.
        """
        arguments = dict(config)
        if "schedule_decay" not in arguments and "decay" in arguments:
            arguments["schedule_decay"] = arguments.pop("decay")
        return super().from_config(arguments, custom_objects)
