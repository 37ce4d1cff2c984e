"""The arithmetic of TensorFlow's kernels that update variables, on whole arrays or on rows.

Each takes the arrays (variable and slots), then numbers and the gradient, and returns the new arrays. They are kept
apart from distopt's rules, which compute in other orders where TensorFlow's optimizers do so around these kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.arrays import Array

Arrays = tuple[Array, ...]


def gradient_descent(var: Array, alpha: Any, delta: Array) -> Arrays:
    """Return ``var - alpha * delta``."""
    return (var - alpha * delta,)


def momentum(var: Array, accum: Array, lr: Any, grad: Array, momentum: Any, *, nesterov: bool) -> Arrays:
    """Return a step of momentum, with the learning rate outside of the accumulator."""
    accum = accum * momentum + grad
    return var - (grad * lr + accum * momentum * lr if nesterov else accum * lr), accum


def keras_momentum(var: Array, accum: Array, lr: Any, grad: Array, momentum: Any, *, nesterov: bool) -> Arrays:
    """Return a step of momentum, with the learning rate inside of the accumulator."""
    accum = accum * momentum - grad * lr
    return var + (accum * momentum - grad * lr if nesterov else accum), accum


def adam(
    var: Array, m: Array, v: Array, beta1_power: Any, beta2_power: Any, lr: Any, beta1: Any, beta2: Any, epsilon: Any,
    grad: Array, *, nesterov: bool,
) -> Arrays:  # fmt: skip
    """Return a step of Adam."""
    alpha = lr * np.sqrt(1 - beta2_power) / (1 - beta1_power)
    m = m + (grad - m) * (1 - beta1)
    v = v + (grad * grad - v) * (1 - beta2)
    direction = grad * (1 - beta1) + beta1 * m if nesterov else m
    return var - (direction * alpha) / (np.sqrt(v) + epsilon), m, v


def adam_with_amsgrad(
    var: Array, m: Array, v: Array, vhat: Array, beta1_power: Any, beta2_power: Any, lr: Any, beta1: Any, beta2: Any,
    epsilon: Any, grad: Array,
) -> Arrays:  # fmt: skip
    """Return a step of Adam with AMSGrad."""
    alpha = lr * np.sqrt(1 - beta2_power) / (1 - beta1_power)
    m = m + (grad - m) * (1 - beta1)
    v = v + (grad * grad - v) * (1 - beta2)
    vhat = np.maximum(vhat, v)
    return var - (m * alpha) / (np.sqrt(vhat) + epsilon), m, v, vhat


def adamax(
    var: Array, m: Array, v: Array, beta1_power: Any, lr: Any, beta1: Any, beta2: Any, epsilon: Any, grad: Array
) -> Arrays:
    """Return a step of Adamax."""
    m = m + (grad - m) * (1 - beta1)
    v = np.maximum(beta2 * v, np.abs(grad))
    return var - lr / (1 - beta1_power) * (m / (v + epsilon)), m, v


def adagrad(var: Array, accum: Array, lr: Any, epsilon: Any, grad: Array, *, update_slots: bool) -> Arrays:
    """Return a step of Adagrad."""
    if update_slots:
        accum = accum + grad * grad
    return var - grad * lr / (np.sqrt(accum) + epsilon), accum


def proximal_adagrad(var: Array, accum: Array, lr: Any, l1: Any, l2: Any, grad: Array) -> Arrays:
    """Return a step of Adagrad, shrunk by the penalties."""
    accum = accum + grad * grad
    rate = lr / np.sqrt(accum)
    return _shrunk(var - grad * rate, rate, l1, l2), accum


def proximal_gradient_descent(var: Array, alpha: Any, l1: Any, l2: Any, delta: Array) -> Arrays:
    """Return ``var - alpha * delta``, shrunk by the penalties."""
    return (_shrunk(var - delta * alpha, alpha, l1, l2),)


def _shrunk(value: Array, rate: Any, l1: Any, l2: Any) -> Array:
    if l1 > 0:
        value = np.sign(value) * np.maximum(np.abs(value) - rate * l1, 0)
    result: Array = value / (1 + l2 * rate)
    return result


def adadelta(var: Array, accum: Array, accum_update: Array, lr: Any, rho: Any, epsilon: Any, grad: Array) -> Arrays:
    """Return a step of Adadelta."""
    accum = accum * rho + grad * grad * (1 - rho)
    update = np.sqrt(accum_update + epsilon) / np.sqrt(accum + epsilon) * grad
    return var - update * lr, accum, accum_update * rho + update * update * (1 - rho)


def rmsprop(var: Array, ms: Array, mom: Array, lr: Any, rho: Any, momentum: Any, epsilon: Any, grad: Array) -> Arrays:
    """Return a step of RMSprop."""
    ms = ms + (grad * grad - ms) * (1 - rho)
    mom = mom * momentum + (grad * lr) / np.sqrt(ms + epsilon)
    return var - mom, ms, mom


def centered_rmsprop(
    var: Array, mg: Array, ms: Array, mom: Array, lr: Any, rho: Any, momentum: Any, epsilon: Any, grad: Array
) -> Arrays:
    """Return a step of centred RMSprop."""
    ms = ms + (grad * grad - ms) * (1 - rho)
    mg = mg + (grad - mg) * (1 - rho)
    mom = mom * momentum + (grad * lr) / np.sqrt(ms - mg * mg + epsilon)
    return var - mom, mg, ms, mom


def ftrl(
    var: Array, accum: Array, linear: Array, grad: Array, lr: Any, l1: Any, l2: Any, l2_shrinkage: Any, lr_power: Any
) -> Arrays:
    """Return a step of Ftrl; ``l2_shrinkage`` acts on the old value."""
    shrunk, total = grad + 2 * l2_shrinkage * var, accum + grad * grad
    linear = linear + shrunk - (total**-lr_power - accum**-lr_power) / lr * var
    quadratic = total**-lr_power / lr + 2 * l2
    value = (np.sign(linear) * l1 - linear) / quadratic
    return np.where(np.abs(linear) > l1, value, np.zeros((), var.dtype)), total, linear


def add_sign(var: Array, m: Array, lr: Any, alpha: Any, sign_decay: Any, beta: Any, grad: Array) -> Arrays:
    """Return a step of AddSign."""
    m = m * beta + grad * (1 - beta)
    return var - lr * (alpha + sign_decay * np.sign(grad) * np.sign(m)) * grad, m


def power_sign(var: Array, m: Array, lr: Any, logbase: Any, sign_decay: Any, beta: Any, grad: Array) -> Arrays:
    """Return a step of PowerSign."""
    m = m * beta + grad * (1 - beta)
    return var - lr * np.exp(logbase * sign_decay * np.sign(grad) * np.sign(m)) * grad, m
