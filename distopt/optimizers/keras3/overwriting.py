"""Variables that their gradients overwrite, such as the scales of float8 training: no rule, no limit, no decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeAlias

import numpy as np

from distopt.arrays import Array
from distopt.distribute.collectives import all_reduce
from distopt.engine.state.training_state import TrainingState
from distopt.errors import InvalidArgumentError
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import DENSE, SPARSE
from distopt.variables.variable import Variable

Overwriting: TypeAlias = "dict[int, Array]"
"""By entry, what this replica brings."""


def take_out(gradients: Gradients, training: TrainingState, overwrites: Callable[[Variable], bool]) -> Overwriting:
    """Take the gradients that overwrite their variables out of a step; what is left of them is zero.

    Where micro-steps are accumulated, the greatest is kept, element by element, as in Keras.

    Args:
        gradients: this replica's; changed.
        training: the accumulated micro-steps; changed.
        overwrites: returns whether a variable is overwritten.

    Raises:
        InvalidArgumentError: ``refuse_streamed``, where the variable has been marked since ``begin_step``.
    """
    taken: Overwriting = {}
    accumulation, variables, views = training.accumulation, gradients.slab.variables, gradients.slab.views
    for k in gradients.listing.entries:
        variable = variables[k]
        if not overwrites(variable):
            continue
        if gradients.stream is not None:
            refuse_streamed(variable)
        value = _value(gradients, k)
        if accumulation is not None:
            total = accumulation.sums[variable].storage.array
            value = np.maximum(value, total).astype(variable.dtype)
            is_last = accumulation.is_last(training.iterations)
            total[...] = 0 if is_last else value
        taken[k] = value
        views[k][...] = 0
    return taken


def refuse_streamed(variable: Variable) -> NoReturn:
    """Refuse an overwritten variable in a step whose gradients come one by one.

    Raises:
        InvalidArgumentError: always.
    """
    raise InvalidArgumentError(
        f"variable {variable.name!r} is overwritten by its gradient, which may be summed already in a step whose "
        "gradients come one by one: use apply_gradients"
    )


def _value(gradients: Gradients, entry: int) -> Array:
    """Return a gradient; where there is none, what changes no maximum."""
    kind, view = gradients.kinds[entry], gradients.slab.views[entry]
    if kind == SPARSE:
        gradients.kinds[entry] = DENSE
        return gradients.sparse.pop(entry).to_dense().astype(view.dtype)
    return view.copy() if kind == DENSE else np.full_like(view, -np.inf)


def overwrite(gradients: Gradients, taken: Overwriting) -> Gradients:
    """Overwrite variables, with several replicas by the greatest of what they bring; return the other gradients.

    Args:
        gradients: those that take part.
        taken: from ``take_out``.
    """
    for k in gradients.entries:
        if k in taken:
            value = all_reduce(taken[k], "max") if gradients.communicates else taken[k]
            gradients.slab.variables[k].assign(value)
    return gradients.part([k for k in gradients.entries if k not in taken])
