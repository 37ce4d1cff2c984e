"""Muon, Keras 3 family."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arguments import BELOW_ONE, count, finite, flag, within
from distopt.arrays import Array
from distopt.errors import InvalidArgumentError
from distopt.kernels import Rule, Scalar
from distopt.optimizers.adam import ADAM
from distopt.optimizers.keras3.layerwise import Layerwise, change, square_sum
from distopt.optimizers.keras3.patterns import compiled, warn_of_idle
from distopt.optimizers.sgd import DESCENT
from distopt.variables.variable import Variable


def _momentum(p: Array, g: Array, m: Array, momentum: Scalar) -> None:
    m[...] = momentum * m + p
    p[...] = m


# The parameter of these two is the gradient, which becomes the matrix to orthogonalise.
MOMENTUM = Rule(
    name="muon",
    slots=("m",),
    scalars=("momentum",),
    sparse="all",
    reference=_momentum,
    body="""\
m = momentum * m + p
p = m""",
)


def _nesterov(p: Array, g: Array, m: Array, momentum: Scalar) -> None:
    m[...] = momentum * m + p
    p += momentum * m


NESTEROV = Rule(
    name="muon_nesterov",
    slots=("m",),
    scalars=("momentum",),
    sparse="all",
    reference=_nesterov,
    body="""\
m = momentum * m + p
p += momentum * m""",
)


class Muon(Layerwise):
    """Muon: momentum whose singular values are brought near 1 for matrices; Adam for all other variables.

    For matrices ``m ← μ m + g``, ``G = g + μ m`` (Nesterov's form) or ``G = m``, ``X = G / (‖G‖ + 1e-7)``, then
    ns_steps times ``A = X Xᵀ``, ``X ← a X + (b A + c A²) X``, and ``w ← w - lr rms_rate √max(rows, columns) X``.
    Variables of other ranks, embeddings and excluded layers are updated as by ``Adam``, with ``lr adam_lr_ratio``.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        adam_beta_1: β₁ of Adam.
        adam_beta_2: β₂ of Adam.
        adam_weight_decay: weight decay of variables that Adam updates; None for no decay.
        epsilon: ε of Adam.
        weight_decay: weight decay of variables that Muon updates; None for no decay.
        exclude_layers: regular expressions; where one is found in a variable's path, Adam updates that variable. One
            that is found in no path is a warning.
        exclude_embeddings: whether Adam updates variables with "embedding" in their path.
        muon_a: a.
        muon_b: b.
        muon_c: c.
        adam_lr_ratio: Adam's learning rate, as a multiple of lr.
        momentum: μ, 0 to 1.
        ns_steps: the number of iterations of Newton and Schulz.
        nesterov: whether to use Nesterov's form.
        rms_rate: a factor that brings the step to the size of Adam's; None leaves out the factor and the root.
        *options: the arguments of ``Optimizer`` by position, from ``clipnorm``.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: a number outside its range, an invalid regular expression, any argument that ``Optimizer``
            refuses.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([[1.0, 2.0], [3.0, 4.0]])
        >>> _ = Muon(learning_rate=0.5, weight_decay=None).apply_gradients([([[1.0, 6.0], [7.0, 2.0]], w)])
        >>> w.numpy().round(1)
        array([[1. , 1.9],
               [2.9, 4. ]], dtype=float32)

    Source: Jordan et al. 2024, with the scale of Liu et al. 2025, as in Keras 3 ``keras.optimizers.Muon``. Matrices
    are multiplied in float32 (float64 for float64 variables, never bfloat16) by NumPy, whose bits depend on the type of
    processor and on the number of threads: have both equal on all replicas.
    """

    _distopt_hyperparameters = (
        "adam_beta_1",
        "adam_beta_2",
        "adam_weight_decay",
        "epsilon",
        "exclude_layers",
        "exclude_embeddings",
        "muon_a",
        "muon_b",
        "muon_c",
        "adam_lr_ratio",
        "momentum",
        "ns_steps",
        "nesterov",
        "rms_rate",
    )
    _distopt_second_moments = ("velocity",)
    _distopt_not_called = (
        "transpose_last_axis",
        "lr_adjust",
        "zeropower_via_newtonschulz5",
        "_muon_update_step",
        "_adamw_update_step",
    )
    _distopt_settled_when_built = ("exclude_layers", "exclude_embeddings", "master_weights")

    def __init__(
        self,
        learning_rate: Any = 0.001,
        adam_beta_1: float = 0.9,
        adam_beta_2: float = 0.999,
        adam_weight_decay: float | None = 0.004,
        epsilon: float = 1e-7,
        weight_decay: float | None = 0.004,
        *options: Any,
        exclude_layers: Sequence[str] | None = None,
        exclude_embeddings: bool = True,
        muon_a: float = 3.4445,
        muon_b: float = -4.7750,
        muon_c: float = 2.0315,
        adam_lr_ratio: float = 1.0,
        momentum: float = 0.95,
        ns_steps: int = 5,
        nesterov: bool = True,
        rms_rate: float | None = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay, *options, **kwargs)
        self.adam_beta_1 = within("Muon", "adam_beta_1", adam_beta_1, 0, BELOW_ONE)
        self.adam_beta_2 = within("Muon", "adam_beta_2", adam_beta_2, 0, BELOW_ONE)
        self.adam_weight_decay = _finite_or_none("adam_weight_decay", adam_weight_decay)
        self.epsilon = finite("Muon", "epsilon", epsilon, low=0)
        self.exclude_layers = _expressions(exclude_layers)
        self.exclude_embeddings = flag("Muon", "exclude_embeddings", exclude_embeddings)
        self.muon_a = finite("Muon", "muon_a", muon_a)
        self.muon_b = finite("Muon", "muon_b", muon_b)
        self.muon_c = finite("Muon", "muon_c", muon_c)
        self.adam_lr_ratio = finite("Muon", "adam_lr_ratio", adam_lr_ratio)
        self.momentum = within("Muon", "momentum", momentum, 0, 1)
        self.ns_steps = count("Muon", "ns_steps", ns_steps, 0)
        self.nesterov = flag("Muon", "nesterov", nesterov)
        self.rms_rate = _finite_or_none("rms_rate", rms_rate)

    def _distopt_make_all_slots(self) -> None:
        for variable in self._distopt_stepped:
            self.add_variable_from_reference(variable, "momentum")
            if self._should_use_adamw(variable):
                self.add_variable_from_reference(variable, "velocity")
        paths = [variable.path for variable in self._trainable_variables]
        advice = "so they leave nothing to Adam. A pattern is to be found in a path"
        warn_of_idle(f"{self.name!r}, exclude_layers", self.exclude_layers, paths, re.search, advice)

    def rule_slots(self) -> tuple[str, ...]:
        return "momentum", "velocity"

    def _should_use_adamw(self, variable: Variable) -> bool:
        """Return whether Adam updates a variable."""
        path = variable.path
        is_embedding = self.exclude_embeddings and "embedding" in path.lower()
        return len(variable.shape) != 2 or is_embedding or any(re.search(part, path) for part in self.exclude_layers)

    def _distopt_weight_decay_of(self, variable: Variable) -> float:
        decay = self.adam_weight_decay if self._should_use_adamw(variable) else self.weight_decay
        return decay if decay is not None and self._use_weight_decay(variable) else 0.0

    def _distopt_move(self, x: Array, g: Array, slots: Sequence[Array], learning_rate: float) -> None:
        if len(slots) == 2:
            self._distopt_move_as_adam(x, g, slots, learning_rate * self.adam_lr_ratio)
            return
        change(NESTEROV if self.nesterov else MOMENTUM, g, g, slots, [self.momentum])
        scale = 1.0 if self.rms_rate is None else self.rms_rate * math.sqrt(max(x.shape))
        change(DESCENT, x, self._distopt_orthogonal(g), [], [learning_rate * scale])

    def _distopt_move_as_adam(self, x: Array, g: Array, slots: Sequence[Array], learning_rate: float) -> None:
        t = self._distopt_step_number
        alpha = learning_rate * math.sqrt(1 - self.adam_beta_2**t) / (1 - self.adam_beta_1**t)
        change(ADAM, x, g, slots, (alpha, 1 - self.adam_beta_1, 1 - self.adam_beta_2, self.epsilon))

    def _distopt_orthogonal(self, x: Array) -> Array:
        """Do the iterations of Newton and Schulz on a matrix, which is overwritten; the result may be another array."""
        x /= math.sqrt(square_sum(x)) + 1e-7
        is_tall = x.shape[0] > x.shape[1]
        other = np.empty_like(x)
        for _ in range(self.ns_steps):
            # BLAS takes half the time for a matrix times its own transpose: hence on the short side, and a @ a.T.
            a = x.T @ x if is_tall else x @ x.T
            polynomial = self.muon_b * a + self.muon_c * (a @ a.T)
            polynomial.flat[:: len(a) + 1] += self.muon_a
            if is_tall:
                np.matmul(x, polynomial, out=other)
            else:
                np.matmul(polynomial, x, out=other)
            x, other = other, x
        return x


def _finite_or_none(argument: str, value: Any) -> float | None:
    return None if value is None else finite("Muon", argument, value)


def _expressions(given: Any) -> list[str]:
    """Return a list of regular expressions; None means an empty list.

    Raises:
        InvalidArgumentError: no list of strings, or a string that is no regular expression.
    """
    layers = [] if given is None else given
    if not isinstance(layers, (list, tuple)) or not all(isinstance(layer, str) for layer in layers):
        raise InvalidArgumentError(f"Muon(exclude_layers={given!r}): expected a list of strings")
    compiled("Muon(exclude_layers)", layers)
    return list(layers)
