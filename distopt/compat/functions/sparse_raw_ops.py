"""TensorFlow's raw operations that update rows of variables; rows that are named again are updated again, in order."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt import ops
from distopt.arrays import Array
from distopt.compat.functions import updates
from distopt.compat.functions.raw_ops import Update
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable


def _rows(
    update: Update, variables: tuple[Variable, ...], before: tuple[Any, ...], grad: Any, after: tuple[Any, ...],
    indices: Any, **options: Any,
) -> None:  # fmt: skip
    """Replace rows of variables by what an update makes of them; numbers stand before and after the gradient."""
    dtype, at, values = variables[0].dtype, np.asarray(indices).ravel(), ops.convert_to_numpy(grad)
    first, last = ([ops.convert_to_numpy(number).astype(dtype) for number in each] for each in (before, after))
    for positions in _without_repetition(at):
        rows = at[positions]
        arrays = [variable.value[rows] for variable in variables]
        new = update(*arrays, *first, values[positions].astype(dtype), *last, **options)
        for variable, value in zip(variables, new, strict=True):
            variable.scatter_update(IndexedSlices(value, rows))


def _without_repetition(indices: Array) -> list[Array]:
    """Return positions in lists that name no row twice: first appearances, then second ones, ..."""
    seen: dict[int, int] = {}
    turns = np.empty(len(indices), np.int64)
    for position, row in enumerate(indices.tolist()):
        turns[position] = seen[row] = seen.get(row, -1) + 1
    return [np.flatnonzero(turns == turn) for turn in np.unique(turns)]


def ResourceSparseApplyMomentum(
    var: Any, accum: Any, lr: Any, grad: Any, indices: Any, momentum: Any, use_nesterov: bool = False, **options: Any
) -> None:
    """Do a step of momentum on rows, with the learning rate outside of the accumulator."""
    _rows(updates.momentum, (var, accum), (lr,), grad, (momentum,), indices, nesterov=use_nesterov)


def ResourceSparseApplyKerasMomentum(
    var: Any, accum: Any, lr: Any, grad: Any, indices: Any, momentum: Any, use_nesterov: bool = False, **options: Any
) -> None:
    """Do a step of momentum on rows, with the learning rate inside of the accumulator."""
    _rows(updates.keras_momentum, (var, accum), (lr,), grad, (momentum,), indices, nesterov=use_nesterov)


def ResourceSparseApplyAdagrad(
    var: Any, accum: Any, lr: Any, grad: Any, indices: Any, update_slots: bool = True, **options: Any
) -> None:
    """Do a step of Adagrad on rows, without an epsilon."""
    _rows(updates.adagrad, (var, accum), (lr, 0.0), grad, (), indices, update_slots=update_slots)


def ResourceSparseApplyAdagradV2(
    var: Any, accum: Any, lr: Any, epsilon: Any, grad: Any, indices: Any, update_slots: bool = True, **options: Any
) -> None:
    """Do a step of Adagrad on rows."""
    _rows(updates.adagrad, (var, accum), (lr, epsilon), grad, (), indices, update_slots=update_slots)


def ResourceSparseApplyProximalAdagrad(
    var: Any, accum: Any, lr: Any, l1: Any, l2: Any, grad: Any, indices: Any, **options: Any
) -> None:
    """Do a step of Adagrad on rows, and shrink these by the L1 and L2 penalties."""
    _rows(updates.proximal_adagrad, (var, accum), (lr, l1, l2), grad, (), indices)


def ResourceSparseApplyAdadelta(
    var: Any, accum: Any, accum_update: Any, lr: Any, rho: Any, epsilon: Any, grad: Any, indices: Any, **options: Any
) -> None:
    """Do a step of Adadelta on rows."""
    _rows(updates.adadelta, (var, accum, accum_update), (lr, rho, epsilon), grad, (), indices)


def ResourceSparseApplyRMSProp(
    var: Any, ms: Any, mom: Any, lr: Any, rho: Any, momentum: Any, epsilon: Any, grad: Any, indices: Any,
    **options: Any,
) -> None:  # fmt: skip
    """Do a step of RMSprop on rows."""
    _rows(updates.rmsprop, (var, ms, mom), (lr, rho, momentum, epsilon), grad, (), indices)


def ResourceSparseApplyCenteredRMSProp(
    var: Any, mg: Any, ms: Any, mom: Any, lr: Any, rho: Any, momentum: Any, epsilon: Any, grad: Any, indices: Any,
    **options: Any,
) -> None:  # fmt: skip
    """Do a step of centred RMSprop on rows."""
    _rows(updates.centered_rmsprop, (var, mg, ms, mom), (lr, rho, momentum, epsilon), grad, (), indices)


def ResourceSparseApplyFtrl(
    var: Any, accum: Any, linear: Any, grad: Any, indices: Any, lr: Any, l1: Any, l2: Any, lr_power: Any,
    **options: Any,
) -> None:  # fmt: skip
    """Do a step of Ftrl on rows."""
    _rows(updates.ftrl, (var, accum, linear), (), grad, (lr, l1, l2, 0.0, lr_power), indices)


def ResourceSparseApplyFtrlV2(
    var: Any, accum: Any, linear: Any, grad: Any, indices: Any, lr: Any, l1: Any, l2: Any, l2_shrinkage: Any,
    lr_power: Any, **options: Any,
) -> None:  # fmt: skip
    """Do a step of Ftrl on rows, with an L2 penalty on the old value."""
    _rows(updates.ftrl, (var, accum, linear), (), grad, (lr, l1, l2, l2_shrinkage, lr_power), indices)
