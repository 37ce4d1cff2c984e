"""An update rule: how one step changes a parameter element and its slots by the gradient.

Each optimizer's file has its rule. A rule is written twice: as a NumPy function on whole arrays (the specification)
and as the statements of the fused loop on one element (the fast way). Both do the same operations in the same order,
so they give the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy.typing as npt

Array = npt.NDArray[Any]
Scalar = Any  # a NumPy scalar of the compute dtype


@dataclass(frozen=True, eq=False)
class Rule:
    """The change of a parameter in one step.

    A step reads the gradient and changes the parameter and its slots, element by element: ``reference``
    does so for whole arrays, ``body`` for one element. In ``body`` the parameter is called ``p`` and the
    gradient ``g``; slots and scalars have their own names; ``sqrt`` is NumPy's.

    Args:
        name: an identifier; kernels are named after it.
        slots: the names of the slots, in the order in which ``update`` takes them.
        scalars: the names of the scalars, in the order in which ``update`` takes them.
        sparse: the effect of a sparse gradient on the rows that it does not name, in the legacy family: ``"rows"`` if
            these rows stay as they are; ``"all"`` if parameter and slots change as by a gradient of zeros; ``"slots"``
            if only the slots change so, and the parameter stays.
        reference: ``reference(parameter, gradient, *slots, *scalars)``, in place on all but the gradient.
        body: the statements of the fused loop, one a line.

    Example:
        >>> def reference(p, g, learning_rate):
        ...     p -= learning_rate * g
        >>> rule = Rule("descent", (), ("learning_rate",), "rows", reference, "p -= learning_rate * g")
        >>> rule.scalars
        ('learning_rate',)
    """

    name: str
    slots: tuple[str, ...]
    scalars: tuple[str, ...]
    sparse: Literal["rows", "slots", "all"]
    reference: Callable[..., None]
    body: str


@functools.cache
def decayed(rule: Rule) -> Rule:
    """Return a rule that first takes the fraction ``decay`` (its last scalar) from the parameter.

    Example:
        >>> from distopt.optimizers.sgd import DESCENT
        >>> decayed(DESCENT).scalars
        ('learning_rate', 'decay')
    """

    def reference(p: Array, g: Array, *rest: Any) -> None:
        p -= rest[-1] * p
        rule.reference(p, g, *rest[:-1])

    return replace(
        rule,
        name=f"{rule.name}_decayed",
        scalars=(*rule.scalars, "decay"),
        reference=reference,
        body=f"p -= decay * p\n{rule.body}",
    )


@functools.cache
def mastered(rule: Rule) -> Rule:
    """Return a rule that works on ``master`` (its last slot), an exact copy of a parameter of 16 bits.

    Example:
        >>> from distopt.optimizers.sgd import DESCENT
        >>> mastered(DESCENT).slots
        ('master',)
    """

    def reference(p: Array, g: Array, *rest: Any) -> None:
        *slots, master = rest[: len(rule.slots) + 1]
        rule.reference(master, g, *slots, *rest[len(rule.slots) + 1 :])
        p[...] = master

    return replace(
        rule,
        name=f"{rule.name}_mastered",
        slots=(*rule.slots, "master"),
        reference=reference,
        body=f"p = master\n{rule.body}\nmaster = p",
    )
