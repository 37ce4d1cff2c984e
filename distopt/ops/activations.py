"""Operations of neural networks: functions of each element, and probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.ops.elementwise import logsumexp, maximum, tanh
from distopt.ops.operands import fitted, operand


def relu(x: Any) -> Any:
    """Return ``max(x, 0)``."""
    return maximum(x, 0)


def sigmoid(x: Any) -> Any:
    """Return ``1 / (1 + exp(-x))``, without overflow."""
    return fitted(np.exp(-np.logaddexp(0, -operand(x))), x)


def softplus(x: Any) -> Any:
    """Return ``log(1 + exp(x))``, without overflow."""
    return fitted(np.logaddexp(operand(x), 0), x)


def softsign(x: Any) -> Any:
    """Return ``x / (1 + |x|)``."""
    return fitted(operand(x) / (1 + np.abs(operand(x))), x)


def silu(x: Any) -> Any:
    """Return ``x * sigmoid(x)``."""
    return fitted(operand(x) * sigmoid(x), x)


def gelu(x: Any) -> Any:
    """Return the Gaussian error linear unit, in its approximation by tanh."""
    cubic = operand(x) + 0.044715 * operand(x) ** 3
    return fitted(0.5 * operand(x) * (1 + tanh(np.sqrt(2 / np.pi) * cubic)), x)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """Return the logarithms of ``softmax``."""
    return fitted(operand(x) - logsumexp(x, axis, keepdims=True), x)


def softmax(x: Any, axis: int = -1) -> Any:
    """Return ``exp(x)``, divided by its sum along ``axis``."""
    return fitted(np.exp(log_softmax(x, axis)), x)


def normalize(x: Any, axis: int = -1, order: float = 2, epsilon: float | None = None) -> Any:
    """Return ``x``, divided by its norms along ``axis``, which count as at least ``epsilon``."""
    norms = np.linalg.norm(operand(x), order, axis, keepdims=True)
    return fitted(operand(x) / np.maximum(norms, 1e-7 if epsilon is None else epsilon), x)


swish = silu
