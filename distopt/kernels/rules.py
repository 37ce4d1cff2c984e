"""The update rules: what one step does to a parameter element, its gradient and its slots.

Each rule is written twice: as a NumPy function on whole arrays (the specification) and as the statements of
the fused loop on one element (the speed). Both do the same operations in the same order: the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Scalar = Any  # a NumPy scalar of the compute dtype


@dataclass(frozen=True, eq=False)
class Rule:
    """How one step changes a parameter.

    A step reads the gradient and changes the parameter and its slots, element by element: ``reference``
    does so for whole arrays, ``body`` for one element. In ``body`` the parameter is called ``p`` and the
    gradient ``g``; slots and scalars have their own names, and ``sqrt`` is the square root.

    Args:
        name: an identifier; kernels are named after it.
        slots: the names of the slots, in the order in which ``update`` takes them.
        scalars: the names of the scalars, in the order in which ``update`` takes them.
        sparse: ``"rows"`` if a row without a gradient stays as it is; ``"all"`` if it moves too.
        reference: ``reference(parameter, gradient, *slots, *scalars)``, in place on all but the gradient.
        body: the statements of the fused loop, one a line.

    Example:
        >>> ADAM.slots, ADAM.sparse
        (('m', 'v'), 'all')
    """

    name: str
    slots: tuple[str, ...]
    scalars: tuple[str, ...]
    sparse: Literal["rows", "all"]
    reference: Callable[..., None]
    body: str


def _sgd(p: Array, g: Array, learning_rate: Scalar) -> None:
    p -= learning_rate * g


SGD = Rule(
    name="sgd",
    slots=(),
    scalars=("learning_rate",),
    sparse="rows",
    reference=_sgd,
    body="p -= learning_rate * g",
)


def _momentum(p: Array, g: Array, velocity: Array, learning_rate: Scalar, momentum: Scalar) -> None:
    velocity[...] = momentum * velocity - learning_rate * g
    p += velocity


MOMENTUM = Rule(
    name="momentum",
    slots=("velocity",),
    scalars=("learning_rate", "momentum"),
    sparse="rows",
    reference=_momentum,
    body="""\
velocity = momentum * velocity - learning_rate * g
p += velocity""",
)


def _nesterov(p: Array, g: Array, velocity: Array, learning_rate: Scalar, momentum: Scalar) -> None:
    velocity[...] = momentum * velocity - learning_rate * g
    p += momentum * velocity - learning_rate * g


NESTEROV = Rule(
    name="nesterov",
    slots=("velocity",),
    scalars=("learning_rate", "momentum"),
    sparse="rows",
    reference=_nesterov,
    body="""\
velocity = momentum * velocity - learning_rate * g
p += momentum * velocity - learning_rate * g""",
)


def _adam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    alpha: Scalar,
    one_minus_beta_1: Scalar,
    one_minus_beta_2: Scalar,
    epsilon: Scalar,
) -> None:
    m += (g - m) * one_minus_beta_1
    v += (g * g - v) * one_minus_beta_2
    p -= alpha * m / (np.sqrt(v) + epsilon)


ADAM = Rule(
    name="adam",
    slots=("m", "v"),
    scalars=("alpha", "one_minus_beta_1", "one_minus_beta_2", "epsilon"),
    sparse="all",
    reference=_adam,
    body="""\
m += (g - m) * one_minus_beta_1
v += (g * g - v) * one_minus_beta_2
p -= alpha * m / (sqrt(v) + epsilon)""",
)


def _amsgrad(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    vhat: Array,
    alpha: Scalar,
    one_minus_beta_1: Scalar,
    one_minus_beta_2: Scalar,
    epsilon: Scalar,
) -> None:
    m += (g - m) * one_minus_beta_1
    v += (g * g - v) * one_minus_beta_2
    # np.maximum leaves open which of two zeros it returns, and its vector and scalar loops differ.
    vhat[...] = np.where((v > vhat) | np.isnan(v), v, vhat)
    p -= alpha * m / (np.sqrt(vhat) + epsilon)


AMSGRAD = Rule(
    name="amsgrad",
    slots=("m", "v", "vhat"),
    scalars=("alpha", "one_minus_beta_1", "one_minus_beta_2", "epsilon"),
    sparse="all",
    reference=_amsgrad,
    body="""\
m += (g - m) * one_minus_beta_1
v += (g * g - v) * one_minus_beta_2
vhat = v if (v > vhat) | (v != v) else vhat
p -= alpha * m / (sqrt(vhat) + epsilon)""",
)
