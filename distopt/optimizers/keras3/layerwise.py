"""The base of Lamb, Adafactor and Muon: a step that needs the whole variable before it changes an element."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arrays import Array
from distopt.kernels import Rule, square_sums, update
from distopt.kernels.spans import compute_dtype
from distopt.optimizers.keras3.optimizer import Optimizer
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable


class Layerwise(Optimizer, abc.ABC):
    """The base of optimizers that update one variable after the other; not for users."""

    def update_step(self, gradient: Any, variable: Variable, learning_rate: Any = None) -> None:
        """Update one variable.

        Args:
            gradient: the aggregated gradient: IndexedSlices (not mutated), or an array in the variable's shape, which
                is used as scratch memory if it can be written and needs no cast.
            variable: the variable; 16-bit variables and their slots are computed in float32 and rounded once.
            learning_rate: the learning rate of this step, a number; None means the one that was evaluated.
        """
        rate = self._distopt_own_learning_rate.of_step if learning_rate is None else learning_rate
        dense = np.asarray(gradient.to_dense() if isinstance(gradient, IndexedSlices) else gradient)
        dtype = compute_dtype(variable.dtype)
        stored = [variable.storage.array, *(slot.storage.array for slot in self._distopt_slots_of(variable))]
        x, *slots = computed = [array.astype(dtype, copy=False) for array in stored]
        with np.errstate(all="ignore"):
            self._distopt_move(x, np.require(dense, dtype, ["C", "W"]), slots, float(rate))
            for array, values in zip(stored, computed, strict=True):
                if values is not array:
                    array[...] = values

    def _distopt_slots_of(self, variable: Variable) -> list[Variable]:
        """Return the slots that this variable has, in the order of the labels."""
        keys = [(variable, label) for label in self.rule_slots()]
        return [self._distopt_engine.slots.table[key] for key in keys if key in self._distopt_engine.slots.table]

    @abc.abstractmethod
    def _distopt_move(self, x: Array, g: Array, slots: Sequence[Array], learning_rate: float) -> None:
        """Do the step on contiguous arrays of float32 or float64.

        Args:
            x: the variable's value; changed.
            g: the gradient of the variable; used as scratch memory.
            slots: the slots of the variable, from ``_distopt_slots_of``; changed.
            learning_rate: the learning rate.
        """


def change(rule: Rule, x: Array, g: Array, slots: Sequence[Array], scalars: Sequence[float]) -> None:
    """Apply a rule to all elements of arrays, by ``kernels.update``."""
    flats = [array.reshape(-1) for array in (x, g, *slots)]
    update(rule, flats[0], flats[1], flats[2:], scalars, np.array([[0, 0, x.size]], np.int64))


def square_sum(array: Array) -> float:
    """Return the sum of squares of a contiguous array, in float64, with the same bits on every replica.

    Example:
        >>> square_sum(np.array([[3.0], [4.0]]))
        25.0
    """
    return float(square_sums(array.reshape(-1), np.array([[0, array.size]], np.int64))[0])
