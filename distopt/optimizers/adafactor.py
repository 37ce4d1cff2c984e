"""Adafactor, Keras 3 family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arguments import finite, flag, positive, within
from distopt.arrays import Array
from distopt.kernels import Rule
from distopt.optimizers.keras3.layerwise import Layerwise, change, square_sum
from distopt.optimizers.sgd import DESCENT
from distopt.variables.variable import Variable

_CACHED = 1 << 17
"""About the number of elements in a group of rows: rows are read twice, so a group must fit the cache."""


def _by_root(p: Array, g: Array) -> None:
    p /= np.sqrt(g)


# Its parameter is the gradient, and its gradient the second moment.
BY_ROOT = Rule(name="by_root", slots=(), scalars=(), sparse="all", reference=_by_root, body="p /= sqrt(g)")


class Adafactor(Layerwise):
    """Adafactor: of the squared gradient of a matrix it keeps only the means over rows and over columns.

    ``G = g² + ε₁``, ``β = 1 - T^beta_2_decay``, T the number of this step from 1. From two dimensions on
    ``r ← β r + (1 - β) mean(G)`` over the last axis, c likewise over the one before, ``v = r / mean(r) · c``; else
    ``v ← β v + (1 - β) G``. Then ``u = g / √v``, ``u ← u / max(1, rms(u) / clip_threshold)`` and
    ``w ← w - max(ε₂, rms(w)) min(lr, 1/√T) u``.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        beta_2_decay: the exponent of T, at most 0.
        epsilon_1: ε₁, keeps v from zero.
        epsilon_2: ε₂, the least scale of a step.
        clip_threshold: limit of rms(u), above 0.
        relative_step: without effect, see below.
        *options: the arguments of ``Optimizer`` by position, from ``weight_decay``.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: a number outside its range; any argument that ``Optimizer`` refuses.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([[1.0, 2.0], [3.0, 4.0]])
        >>> _ = Adafactor(learning_rate=0.5).apply_gradients([([[1.0, 6.0], [7.0, 2.0]], w)])
        >>> w.numpy().round(4)
        array([[ 0.7007, -0.0081],
               [ 1.2492,  3.4407]], dtype=float32)

    Source: Shazeer and Stern 2018, as in Keras 3 ``keras.optimizers.Adafactor``. There too ``relative_step`` caps what
    is capped at 1/√T anyway, and v is stored though r and c determine it: so configs and states fit both libraries.
    """

    _distopt_hyperparameters = ("beta_2_decay", "epsilon_1", "epsilon_2", "clip_threshold", "relative_step")
    _distopt_second_moments = ("velocity",)
    _distopt_not_called = ("_rms",)

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_2_decay: float = -0.8,
        epsilon_1: float = 1e-30,
        epsilon_2: float = 1e-3,
        clip_threshold: float = 1.0,
        relative_step: bool = True,
        *options: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, *options, **kwargs)
        self.beta_2_decay = within("Adafactor", "beta_2_decay", beta_2_decay, -math.inf, 0)
        self.epsilon_1 = finite("Adafactor", "epsilon_1", epsilon_1, low=0)
        self.epsilon_2 = finite("Adafactor", "epsilon_2", epsilon_2, low=0)
        self.clip_threshold = positive("Adafactor", "clip_threshold", clip_threshold)
        self.relative_step = flag("Adafactor", "relative_step", relative_step)
        self._distopt_means: dict[Variable, tuple[Variable, Variable]] = {}

    def _distopt_make_all_slots(self) -> None:
        for variable in self._distopt_stepped:
            shape, name = variable.shape, f"{self.name}/{variable.path.replace('/', '_')}"
            is_factored = len(shape) > 1
            shapes = (shape[:-1], (*shape[:-2], shape[-1])) if is_factored else ((), ())
            dtype = variable.dtype if is_factored else "int32"  # placeholders: Keras' lists of weights hold them
            rows = self.add_variable(shapes[0], dtype=dtype, name=f"{name}_row_means")
            columns = self.add_variable(shapes[1], dtype=dtype, name=f"{name}_column_means")
            if is_factored:
                self._distopt_means[variable] = rows, columns
            self.add_variable_from_reference(variable, "velocity")

    def rule_slots(self) -> tuple[str, ...]:
        return ("velocity",)

    def _distopt_slots_of(self, variable: Variable) -> list[Variable]:
        return [*super()._distopt_slots_of(variable), *self._distopt_means.get(variable, ())]

    def _distopt_move(self, x: Array, g: Array, slots: Sequence[Array], learning_rate: float) -> None:
        t = self._distopt_step_number
        v, *means = slots
        self._distopt_remember(g, v, means, 1 - t**self.beta_2_decay)
        u = g
        change(BY_ROOT, u, v, [], [])
        rate = np.maximum(self.epsilon_2, _rms(x)) * min(learning_rate, 1 / math.sqrt(t))
        change(DESCENT, x, u, [], [rate / np.maximum(1, _rms(u) / self.clip_threshold)])

    def _distopt_remember(self, g: Array, v: Array, means: Sequence[Array], beta: float) -> None:
        """Update the second moment."""
        if not means:
            v *= beta
            v += (1 - beta) * (g * g + self.epsilon_1)
            return
        for mean, now in zip(means, _mean_squares(g), strict=True):
            mean *= beta
            mean += (1 - beta) * (now + self.epsilon_1)
        rows, columns = means
        relative = rows / (rows.sum(axis=-1, keepdims=True) / rows.shape[-1])
        np.multiply(relative[..., :, None], columns[..., None, :], out=v)


def _mean_squares(g: Array) -> tuple[Array, Array]:
    """Return the mean squares over the last axis and over the one before, in one pass over memory."""
    height, width = g.shape[-2:]
    over_rows = np.empty(g.shape[:-1], g.dtype)
    over_columns = np.zeros((*g.shape[:-2], width))  # float64: of long columns the parts are added one by one
    step = max(1, _CACHED // max(1, width))
    for begin in range(0, height, step):
        part = g[..., begin : begin + step, :]
        over_rows[..., begin : begin + step] = np.einsum("...ij,...ij->...i", part, part)
        over_columns += np.einsum("...ij,...ij->...j", part, part)
    return over_rows / width, (over_columns / height).astype(g.dtype)


def _rms(array: Array) -> float:
    return math.sqrt(square_sum(array) / max(1, array.size))
