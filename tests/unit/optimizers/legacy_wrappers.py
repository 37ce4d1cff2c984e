"""Optimizers around others in the manner of TensorFlow Addons: they call upstream's methods of the one inside."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.optimizers import legacy


def call(optimizer: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Call a method of the optimizer inside: upstream's names begin with an underscore."""
    return getattr(optimizer, name)(*args, **kwargs)


class Wrapper(legacy.Optimizer):
    """What all of them have."""

    def __init__(self, optimizer, name="Wrapper", **kwargs):
        super().__init__(name, **kwargs)
        self._optimizer = optimizer
        self._track_trackable(self._optimizer, "base_optimizer")

    def _create_slots(self, var_list):
        call(self._optimizer, "_create_slots", var_list=var_list)

    def _create_hypers(self):
        call(self._optimizer, "_create_hypers")

    def _prepare(self, var_list):
        return call(self._optimizer, "_prepare", var_list=var_list)

    def apply_gradients(self, grads_and_vars, name=None, **kwargs):
        call(self._optimizer, "__setattr__", "_iterations", self.iterations)
        return super().apply_gradients(grads_and_vars, name, **kwargs)

    @property
    def weights(self):
        return self._weights + self._optimizer.weights

    @property
    def learning_rate(self):
        return call(self._optimizer, "_get_hyper", "learning_rate")

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        call(self._optimizer, "_set_hyper", "learning_rate", learning_rate)

    def get_config(self):
        return super().get_config() | {"optimizer": legacy.serialize(self._optimizer)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(legacy.deserialize(config.pop("optimizer"), custom_objects=custom_objects), **config)


class Lookahead(Wrapper):
    def __init__(self, optimizer, sync_period=6, slow_step_size=0.5, name="Lookahead", **kwargs):
        super().__init__(optimizer, name, **kwargs)
        self._set_hyper("sync_period", sync_period)
        self._set_hyper("slow_step_size", slow_step_size)

    def _create_slots(self, var_list):
        super()._create_slots(var_list)
        for var in var_list:
            self.add_slot(var, "slow", initializer=var)

    def _look_ahead(self, var):
        slow, step = self.get_slot(var, "slow"), int(self.iterations) + 1
        if step % self._get_hyper("sync_period", np.int64) == 0:
            back = slow + self._get_hyper("slow_step_size", var.dtype) * (var - slow)
            slow.assign(back, use_locking=self._use_locking)
            var.assign(back, use_locking=self._use_locking)

    def _resource_apply_dense(self, grad, var):
        call(self._optimizer, "_resource_apply_dense", grad, var)
        self._look_ahead(var)

    def _resource_apply_sparse(self, grad, var, indices):
        call(self._optimizer, "_resource_apply_sparse", grad, var, indices)
        self._look_ahead(var)

    def get_config(self):
        names = ("sync_period", "slow_step_size")
        return super().get_config() | {name: self._serialize_hyperparameter(name) for name in names}


class Averaging(Wrapper):
    def _create_slots(self, var_list):
        super()._create_slots(var_list)
        for var in var_list:
            self.add_slot(var, "average", self.first(var))

    def first(self, var):
        return "zeros"

    def _resource_apply_dense(self, grad, var, apply_state=None):
        if "apply_state" in call(self._optimizer, "__getattribute__", "_dense_apply_args"):
            call(self._optimizer, "_resource_apply_dense", grad, var, apply_state=apply_state)
        self.average(var, self.get_slot(var, "average"))

    def _resource_apply_sparse_duplicate_indices(self, grad, var, indices, apply_state=None):
        name = "_resource_apply_sparse_duplicate_indices"
        call(self._optimizer, name, grad, var, indices, apply_state=apply_state)
        self.average(var, self.get_slot(var, "average"))

    def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
        raise AssertionError("the method for repeated rows is overridden")


class MovingAverage(Averaging):
    def __init__(self, optimizer, average_decay=0.99, name="MovingAverage", **kwargs):
        super().__init__(optimizer, name, **kwargs)
        self._set_hyper("average_decay", average_decay)

    def first(self, var):
        return var.read_value()

    def average(self, var, average_var):
        decay = self._get_hyper("average_decay", np.float32)
        average_var.assign(average_var * decay + var * (1 - decay))


class SWA(Averaging):
    def __init__(self, optimizer, start_averaging=0, average_period=10, name="SWA", **kwargs):
        super().__init__(optimizer, name, **kwargs)
        self._set_hyper("average_period", average_period)
        self._set_hyper("start_averaging", start_averaging)

    def average(self, var, average_var):
        period = self._get_hyper("average_period", np.int64)
        start = self._get_hyper("start_averaging", np.int64)
        snapshots = max(0, (self.iterations - start) // period)
        if self.iterations >= start and self.iterations == start + snapshots * period:
            average_var.assign((average_var * snapshots + var) / (snapshots + 1.0))
