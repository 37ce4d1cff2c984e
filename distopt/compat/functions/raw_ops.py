"""TensorFlow's raw operations that update variables: dense ones here, those of rows in ``sparse_raw_ops``.

Each writes its variables and returns None. Arguments have TensorFlow's names and order, and the arithmetic that of its
kernels on CPUs. ``use_locking`` and ``name`` are ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distopt import ops
from distopt.arrays import Array
from distopt.compat.functions import updates
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable

Update = Callable[..., tuple[Array, ...]]


def _dense(update: Update, variables: tuple[Variable, ...], *numbers: Any, **options: Any) -> None:
    """Replace whole variables by what an update makes of them."""
    arrays = [variable.numpy() for variable in variables]
    scalars = [_in(number, arrays[0]) for number in numbers]
    for variable, value in zip(variables, update(*arrays, *scalars, **options), strict=True):
        variable.assign(value)


def _in(number: Any, like: Array) -> Any:
    return ops.convert_to_numpy(number).astype(like.dtype)


def ResourceApplyGradientDescent(var: Any, alpha: Any, delta: Any, **options: Any) -> None:
    """Subtract ``alpha * delta``."""
    _dense(updates.gradient_descent, (var,), alpha, delta)


def ResourceApplyMomentum(
    var: Any, accum: Any, lr: Any, grad: Any, momentum: Any, use_nesterov: bool = False, **options: Any
) -> None:
    """Do a step of momentum, with the learning rate outside of the accumulator."""
    _dense(updates.momentum, (var, accum), lr, grad, momentum, nesterov=use_nesterov)


def ResourceApplyKerasMomentum(
    var: Any, accum: Any, lr: Any, grad: Any, momentum: Any, use_nesterov: bool = False, **options: Any
) -> None:
    """Do a step of momentum, with the learning rate inside of the accumulator."""
    _dense(updates.keras_momentum, (var, accum), lr, grad, momentum, nesterov=use_nesterov)


def ResourceApplyAdam(
    var: Any, m: Any, v: Any, beta1_power: Any, beta2_power: Any, lr: Any, beta1: Any, beta2: Any, epsilon: Any,
    grad: Any, use_nesterov: bool = False, **options: Any,
) -> None:  # fmt: skip
    """Do a step of Adam."""
    numbers = beta1_power, beta2_power, lr, beta1, beta2, epsilon, grad
    _dense(updates.adam, (var, m, v), *numbers, nesterov=use_nesterov)


def ResourceApplyAdamWithAmsgrad(
    var: Any, m: Any, v: Any, vhat: Any, beta1_power: Any, beta2_power: Any, lr: Any, beta1: Any, beta2: Any,
    epsilon: Any, grad: Any, **options: Any,
) -> None:  # fmt: skip
    """Do a step of Adam with AMSGrad."""
    numbers = beta1_power, beta2_power, lr, beta1, beta2, epsilon, grad
    _dense(updates.adam_with_amsgrad, (var, m, v, vhat), *numbers)


def ResourceApplyAdaMax(
    var: Any, m: Any, v: Any, beta1_power: Any, lr: Any, beta1: Any, beta2: Any, epsilon: Any, grad: Any,
    **options: Any,
) -> None:  # fmt: skip
    """Do a step of Adamax."""
    _dense(updates.adamax, (var, m, v), beta1_power, lr, beta1, beta2, epsilon, grad)


def ResourceApplyAdagrad(var: Any, accum: Any, lr: Any, grad: Any, update_slots: bool = True, **options: Any) -> None:
    """Do a step of Adagrad without an epsilon."""
    _dense(updates.adagrad, (var, accum), lr, 0.0, grad, update_slots=update_slots)


def ResourceApplyAdagradV2(
    var: Any, accum: Any, lr: Any, epsilon: Any, grad: Any, update_slots: bool = True, **options: Any
) -> None:
    """Do a step of Adagrad."""
    _dense(updates.adagrad, (var, accum), lr, epsilon, grad, update_slots=update_slots)


def ResourceApplyProximalAdagrad(var: Any, accum: Any, lr: Any, l1: Any, l2: Any, grad: Any, **options: Any) -> None:
    """Do a step of Adagrad, and shrink by the L1 and L2 penalties."""
    _dense(updates.proximal_adagrad, (var, accum), lr, l1, l2, grad)


def ResourceApplyProximalGradientDescent(var: Any, alpha: Any, l1: Any, l2: Any, delta: Any, **options: Any) -> None:
    """Subtract ``alpha * delta``, and shrink by the L1 and L2 penalties."""
    _dense(updates.proximal_gradient_descent, (var,), alpha, l1, l2, delta)


def ResourceApplyAdadelta(
    var: Any, accum: Any, accum_update: Any, lr: Any, rho: Any, epsilon: Any, grad: Any, **options: Any
) -> None:
    """Do a step of Adadelta."""
    _dense(updates.adadelta, (var, accum, accum_update), lr, rho, epsilon, grad)


def ResourceApplyRMSProp(
    var: Any, ms: Any, mom: Any, lr: Any, rho: Any, momentum: Any, epsilon: Any, grad: Any, **options: Any
) -> None:
    """Do a step of RMSprop."""
    _dense(updates.rmsprop, (var, ms, mom), lr, rho, momentum, epsilon, grad)


def ResourceApplyCenteredRMSProp(
    var: Any, mg: Any, ms: Any, mom: Any, lr: Any, rho: Any, momentum: Any, epsilon: Any, grad: Any, **options: Any
) -> None:
    """Do a step of centred RMSprop."""
    _dense(updates.centered_rmsprop, (var, mg, ms, mom), lr, rho, momentum, epsilon, grad)


def ResourceApplyFtrl(
    var: Any, accum: Any, linear: Any, grad: Any, lr: Any, l1: Any, l2: Any, lr_power: Any, **options: Any
) -> None:
    """Do a step of Ftrl."""
    _dense(updates.ftrl, (var, accum, linear), grad, lr, l1, l2, 0.0, lr_power)


def ResourceApplyFtrlV2(
    var: Any, accum: Any, linear: Any, grad: Any, lr: Any, l1: Any, l2: Any, l2_shrinkage: Any, lr_power: Any,
    **options: Any,
) -> None:  # fmt: skip
    """Do a step of Ftrl, with an L2 penalty on the old value."""
    _dense(updates.ftrl, (var, accum, linear), grad, lr, l1, l2, l2_shrinkage, lr_power)


def ResourceApplyAddSign(
    var: Any, m: Any, lr: Any, alpha: Any, sign_decay: Any, beta: Any, grad: Any, **options: Any
) -> None:
    """Do a step of AddSign."""
    _dense(updates.add_sign, (var, m), lr, alpha, sign_decay, beta, grad)


def ResourceApplyPowerSign(
    var: Any, m: Any, lr: Any, logbase: Any, sign_decay: Any, beta: Any, grad: Any, **options: Any
) -> None:
    """Do a step of PowerSign."""
    _dense(updates.power_sign, (var, m), lr, logbase, sign_decay, beta, grad)


def AssignVariableOp(resource: Any, value: Any, **options: Any) -> None:
    """Set a variable."""
    resource.assign(value)


def AssignAddVariableOp(resource: Any, value: Any, **options: Any) -> None:
    """Add to a variable."""
    resource.assign_add(value)


def AssignSubVariableOp(resource: Any, value: Any, **options: Any) -> None:
    """Subtract from a variable."""
    resource.assign_sub(value)


def ReadVariableOp(resource: Any, dtype: Any = None, **options: Any) -> Any:
    """Return a variable's value."""
    return resource.read_value()


def ResourceGather(resource: Any, indices: Any, dtype: Any = None, **options: Any) -> Any:
    """Return rows of a variable."""
    return resource.sparse_read(indices)


def _scatter(method: str, what: str) -> Callable[..., None]:
    def operation(resource: Any, indices: Any, updates: Any, **options: Any) -> None:
        getattr(resource, method)(IndexedSlices(ops.convert_to_numpy(updates), np.asarray(indices).ravel()))

    operation.__name__ = operation.__qualname__ = f"ResourceScatter{what}"
    operation.__doc__ = f"Call ``{method}`` of a variable with rows."
    return operation


ResourceScatterUpdate = _scatter("scatter_update", "Update")
ResourceScatterAdd = _scatter("scatter_add", "Add")
ResourceScatterSub = _scatter("scatter_sub", "Sub")
ResourceScatterMul = _scatter("scatter_mul", "Mul")
ResourceScatterDiv = _scatter("scatter_div", "Div")
ResourceScatterMax = _scatter("scatter_max", "Max")
ResourceScatterMin = _scatter("scatter_min", "Min")
