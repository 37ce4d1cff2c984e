"""Stage 1 of a step: the user's list of (gradient, variable), checked and laid into the slab."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from distopt.arguments import LARGEST, SMALLEST, as_float
from distopt.errors import InvalidArgumentError
from distopt.kernels.spans import COMPUTE_DTYPE
from distopt.process.moments import ACTIVE
from distopt.process.observers import observed_gradients
from distopt.process.replica import Replica
from distopt.slabs.fitting import Pair, fit
from distopt.slabs.gradients import Gradients, as_pairs
from distopt.slabs.listing import DENSE, SPARSE
from distopt.slabs.slab import Slab
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable


def own_pairs(grads_and_vars: Iterable[Pair], replica: Replica) -> list[Pair]:
    """Return the user's pairs as a list, after checking that this replica owns the variables.

    Raises:
        InvalidArgumentError: not (gradient, variable) pairs.
        ForeignVariableError: a variable that another replica made.
    """
    expected = "(gradient, Variable) pairs, such as zip(gradients, variables)"
    pairs = as_pairs(grads_and_vars, "apply_gradients received", expected)
    for _, variable in pairs:
        if variable.owner is not replica:
            variable.check_owner()
    return pairs


def read_gradients(pairs: Iterable[Pair], gradients: Gradients, *, casts: bool) -> None:
    """Copy dense gradients into the slab and set the sparse ones aside.

    Args:
        pairs: the gradients (arrays, anything ``np.asarray`` takes, IndexedSlices or None) and their variables.
        gradients: of the list of these variables; filled.
        casts: whether a gradient of another floating dtype is cast (Keras 3) or refused (legacy).
    """
    pairs = observed_gradients(pairs) if ACTIVE else pairs
    for k, (gradient, _) in zip(gradients.listing.entries, pairs, strict=True):
        read_gradient(gradient, gradients, k, casts=casts)


def read_gradient(gradient: Any, gradients: Gradients, entry: int, *, casts: bool) -> None:
    """Copy one gradient into the slab, or set it aside where it is sparse; note which."""
    slab = gradients.slab
    view = slab.views[entry]
    if gradient is None:
        return
    if gradient is view:
        gradients.kinds[entry] = DENSE
        return
    variable = slab.variables[entry]
    if type(gradient) is not np.ndarray or gradient.dtype != view.dtype or gradient.shape != view.shape:
        gradient = fit(gradient, variable, "the gradient", casts=casts)
    if isinstance(gradient, IndexedSlices):
        gradients.sparse[entry] = gradient
        gradients.kinds[entry] = SPARSE
        return
    if gradient.base is view.base and gradient.ctypes.data != view.ctypes.data:
        raise InvalidArgumentError(
            f"the gradient of {variable.name!r} is the gradient buffer of another variable: pass the arrays of "
            "gradient_buffers(variables) with the variables in the same order, or a copy"
        )
    view[...] = gradient
    gradients.kinds[entry] = DENSE


def check_items(items: Any, aggregates: bool, averaged_loss: str | None) -> float | None:
    """Return ``items`` as a float.

    Raises:
        InvalidArgumentError: no count, or given where the aggregate must not be divided.
    """
    if items is None:
        return None
    if not aggregates:
        raise InvalidArgumentError(
            f"items={items!r} with experimental_aggregate_gradients=False: there is no aggregate to divide. "
            "Divide the gradients by the number of items yourself"
        )
    if averaged_loss is not None:
        raise InvalidArgumentError(
            f"items={items!r}, but the loss {averaged_loss!r}, computed under a tape since the last step, is an "
            "average already, so the gradients would be divided twice: use a summed loss (Reduction.SUM) with items=, "
            "or leave items= out. A loss that is only a metric is computed outside of the tape, or from "
            "distopt.stop_gradient(predictions)"
        )
    number = as_float(items)
    if not (number == 0 or SMALLEST <= number <= LARGEST):
        raise InvalidArgumentError(
            f"items={items!r}: expected the number of items (examples, tokens) of this replica's loss: 0, or from "
            f"{SMALLEST:.2g} to {LARGEST:.2g}, so that gradients can be divided by it"
        )
    return number


def refuse_buffers(pairs: Sequence[Pair], slab: Slab) -> None:
    """Refuse gradient buffers after a step that was begun and not ended: its sums may have been written into them.

    Args:
        pairs: gradients and variables.
        slab: that of the step that was given up.

    Raises:
        InvalidArgumentError: one is among the gradients.
    """
    buffers = set(map(id, slab.views))
    for gradient, variable in pairs:
        if id(gradient) in buffers:
            raise InvalidArgumentError(
                f"apply_gradients received the gradient buffer of {variable.name!r} while a step was open: sums of "
                "that step may lie in it. Call end_step() or cancel_step() before you write gradients there"
            )


def as_variables(variables: Any, said: str) -> list[Variable]:
    """Return the user's variables as a list; ``check_variable`` looks at each, where a list is new.

    Args:
        variables: what should be a list of variables; an iterator can be read only once.
        said: the beginning of the message, such as "begin_step received".

    Raises:
        InvalidArgumentError: no list.
    """
    if isinstance(variables, Variable) or not isinstance(variables, Iterable):
        raise InvalidArgumentError(f"{said} {variables!r}: expected a list of distopt.Variable")
    return list(variables)


def check_variable(variable: Any) -> None:
    """Refuse what can't be trained.

    Raises:
        InvalidArgumentError: no Variable, or one of a dtype without kernels.
        ForeignVariableError: another replica's.
    """
    if not isinstance(variable, Variable):
        raise InvalidArgumentError(f"an optimizer received {variable!r} as a variable: expected a distopt.Variable")
    variable.check_owner()
    if variable.dtype not in COMPUTE_DTYPE:
        raise InvalidArgumentError(
            f"Invalid type {variable.dtype} of variable {variable.name!r}: optimizers train "
            f"{', '.join(dtype.name for dtype in COMPUTE_DTYPE)}. Leave it out of the list, or make it with one of them"
        )
