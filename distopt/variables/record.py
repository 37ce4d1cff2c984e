"""The record of a tape: one node for each operation, which can bring a gradient from its value to its operands."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from autograd.core import VJPNode, primitive_vjps
from autograd.extend import defvjp, primitive
from autograd.tracer import new_box, notrace_primitives
from autograd.util import subvals

from distopt.arrays import Array
from distopt.variables.indexed_slices import Indices
from distopt.variables.traceable import untraceable
from distopt.variables.variable import Variable

trace_numbers = itertools.count()
_REFUSALS = (NotImplementedError, TypeError, ValueError, AssertionError)

# autograd's derivatives take these and do not look at them.
_OVERLOOKED = frozenset({"where", "initial", "correction", "mean"})


class Record:
    """The part of a record that all nodes of one tape share.

    Args:
        trace: the number of the tape's trace.
        keeps_calls: whether nodes keep their operands, so that the tape can follow the gradients that it computes.
    """

    __slots__ = ("is_on", "keeps_calls", "trace")

    def __init__(self, trace: int, *, keeps_calls: bool = False) -> None:
        self.trace, self.keeps_calls = trace, keeps_calls
        self.is_on = True
        """True while operations are recorded; what is computed while it is False counts as a constant."""


_NO_RECORD = Record(-1)
_NO_RECORD.is_on = False


class TapeNode(VJPNode):  # type: ignore[misc]
    """One recorded operation, or a root: a value that a tape watches. Gradients are kept in the dtype of the value.

    ``watched`` of a root is (variable or None, its version when the tape began to watch it), of an operation None.
    ``call`` is what the derivative was made from, where the record keeps it.
    """

    __slots__ = ("call", "dtype", "name", "record", "shape", "watched")

    def __init__(self, value: Any, fun: Any, args: Any, kwargs: Any, parent_argnums: Any, parents: Any) -> None:
        self.name = fun.__name__
        self.call: Any = None
        self.dtype, self.shape = getattr(value, "dtype", None), getattr(value, "shape", None)
        self.watched: tuple[Variable | None, int] | None = None
        self.record: Record = parents[0].record
        if not self.record.is_on:  # paused, or forgotten; another operand may be recorded
            self.record = next((parent.record for parent in parents if parent.record.is_on), _NO_RECORD)
        if not self.record.is_on:
            super().initialize_root()
            return
        if overlooked := _OVERLOOKED & kwargs.keys():
            raise untraceable(self.name, f"has no derivative with {sorted(overlooked)}")
        try:
            super().__init__(value, fun, args, kwargs, parent_argnums, parents)
        except _REFUSALS as error:
            raise untraceable(self.name, f"has no derivative here ({error})") from error
        if self.record.keeps_calls:
            self.call = (fun, value, args, kwargs, parent_argnums)

    def initialize_root(self, value: Any, variable: Variable | None, record: Record) -> None:
        """Initialise a root, as ``__init__`` initialises an operation."""
        super().initialize_root()
        self.name, self.dtype, self.shape = "watch", value.dtype, value.shape
        self.record = record
        self.call = None
        self.watched = (variable, 0 if variable is None else variable.storage.writes)

    def pull_back(self, gradient: Any, *, followed: bool) -> list[Any]:
        """Return the gradients of the parents, from the gradient of the value.

        Args:
            gradient: the gradient of the value; not mutated.
            followed: whether the node's own tape follows this computation, for derivatives of higher order.
        """
        try:
            vjp = self._followed_vjp() if followed and self.call is not None else self.vjp
            parts = list(vjp(convert(gradient, self.dtype)))
        except _REFUSALS as error:
            raise untraceable(self.name, f"has no derivative here ({error})") from error
        for parent, part in zip(self.parents, parts, strict=True):
            shape = getattr(part, "shape", None)
            if None not in (shape, parent.shape) and shape != parent.shape:  # autograd has such bugs
                raise untraceable(self.name, f"has a derivative of shape {shape} for one of {parent.shape}")
        return parts

    def _followed_vjp(self) -> Any:
        """Return the derivative as a function of values that the tape follows: it is made anew from these."""
        fun, value, args, kwargs, argnums = self.call
        trace = self.record.trace
        parents = zip(argnums, self.parents, strict=True)
        boxes = [(n, new_box(args[n], trace, parent)) for n, parent in parents]
        return primitive_vjps[fun](argnums, new_box(value, trace, self), subvals(args, boxes), kwargs)


class Rows(NamedTuple):
    """The gradient of one gather: rows of values, their indices, and the number of the gather in order of execution."""

    order: int
    values: Array
    indices: Indices


@primitive  # type: ignore[untyped-decorator]
def _convert(value: Any, dtype: np.dtype[Any]) -> Any:
    return np.asarray(value).astype(dtype)[()]


defvjp(_convert, lambda ans, value, dtype: lambda g: convert(g, value.dtype), argnums=(0,))


def convert(value: Any, dtype: np.dtype[Any] | None, copy: bool = False) -> Any:
    """Return ``value``, plain or traced, in ``dtype``."""
    if not copy and (dtype is None or getattr(value, "dtype", None) == dtype):
        return value
    return _convert(value, dtype)


notrace_primitives[TapeNode] = notrace_primitives[VJPNode]
