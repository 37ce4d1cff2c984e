"""Traced values: computations of NumPy from them are recorded by autograd, or refused, but never lost.

autograd brings the record and the derivative of each NumPy function. Our own parts are the dispatch from plain ``np.``
functions, the rows of gathered variables, and the numbers of traces: autograd has one stack of traces per process, but
simulated replicas differentiate in several threads at once.
"""

from __future__ import annotations

import dis
import inspect
import itertools
from typing import Any

import autograd.numpy as anp
import ml_dtypes
import numpy as np
import numpy.typing as npt
from autograd.extend import defvjp, primitive, vspace
from autograd.numpy.numpy_boxes import ArrayBox
from autograd.numpy.numpy_vjps import untake
from autograd.numpy.numpy_vspaces import ArrayVSpace
from autograd.tracer import Box, getval, isbox

from distopt.arrays import Array, is_floating, to_dtype
from distopt.errors import UntraceableError
from distopt.process.replica import current_replica
from distopt.variables.array_like import Traced, read
from distopt.variables.indexed_slices import Indices
from distopt.variables.record import Rows, TapeNode, convert
from distopt.variables.traceable import call_traced, clip, take, untraceable
from distopt.variables.values import Value

_forward_order = itertools.count()

_JOIN = "Join values with np.stack or np.concatenate; say x.numpy() where the plain value is meant."
_STORE_SUBSCR = dis.opmap["STORE_SUBSCR"]


def trace_of(value: Any) -> int:
    """Return the number of the innermost tape that follows a value; -1 where none does."""
    return int(value._trace) if isbox(value) else -1


def inside_of(box: Any) -> Any:
    """Return what a followed value is to the tapes outside of its own."""
    return box._value


def node_of(box: Any) -> TapeNode:
    """Return where a followed value stands in the record of its tape."""
    node: TapeNode = box._node
    return node


def is_followed(value: Any) -> bool:
    """Return whether a tape that is still open follows ``value``, or a value in these lists, tuples and dicts."""
    if type(value) in (list, tuple):
        return any(map(is_followed, value))
    if type(value) is dict:
        return any(map(is_followed, value.values()))
    return any(tape.follows(value) for tape in current_replica().tapes)


def plain(value: Any) -> Any:
    """Return ``value`` with every traced value in it, also in lists, tuples and dicts, replaced by its plain value."""
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {key: plain(item) for key, item in value.items()}
    return getval(value)


class TracedArray(Traced, np.lib.mixins.NDArrayOperatorsMixin, ArrayBox):  # type: ignore[misc]
    """A value that a tape follows: an array for NumPy, a number for ``float``, ``format`` and comparisons."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __init__(self, value: Any, trace: int, node: TapeNode) -> None:
        if trace_of(value) >= trace:
            raise UntraceableError(
                "A traced value was used by autograd.numpy or autograd.grad, where tapes cannot follow. "
                "Write plain NumPy (np.) on variables and differentiate with distopt.GradientTape."
            )
        super().__init__(value, trace, node)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method == "__call__":
            return self.__array_function__(ufunc, (), inputs, kwargs)
        if is_followed([*inputs, kwargs]):
            raise untraceable(f"{ufunc.__name__}.{method}", "has no derivative")
        return getattr(ufunc, method)(*plain(read(inputs)), **plain(read(kwargs)))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        try:
            if kwargs.get("out") is not None:
                raise untraceable(func.__name__, "was to be written into an array", "Say x = x + y, not out= or +=.")
            return call_traced(func, args, kwargs)
        except UntraceableError:
            # What a closed tape can't differentiate it need not: nobody asks it for more than it has recorded.
            if is_followed([*args, kwargs]):
                raise
        return func(*plain(read(args)), **plain(read(kwargs)))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if is_followed(self):
            raise untraceable(
                "asarray",
                "(also in a list of numbers, assigned to an element, or in a collective) would make it a constant",
                _JOIN,
            )
        return np.array(getval(self), dtype, copy=True if copy is None else copy)

    def __getitem__(self, index: Any) -> Any:
        index = read(index)
        of_variable = self._node.watched is not None and self._node.watched[0] is not None
        rows = _as_row_indices(index) if of_variable else None
        return ArrayBox.__getitem__(self, index) if rows is None else gather(self, rows, next(_forward_order))

    def __setitem__(self, index: Any, value: Any) -> None:
        raise untraceable("ndarray.__setitem__", "was to be changed in place", "Use np.where or np.concatenate.")

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(np.ndarray, name):
            if is_followed(self):
                raise untraceable(f"ndarray.{name}", "has no derivative")
            value = self.numpy()
            value.flags.writeable = False  # ``fill`` and the like would write into this copy
            return getattr(value, name)
        raise AttributeError(f"a traced value has no attribute {name!r}")

    def numpy(self) -> Array:
        """Return a copy of the plain value."""
        return np.array(getval(self))

    def item(self) -> Any:
        """Return the plain value of one element as a number of Python."""
        return self.numpy().item()

    def tolist(self) -> Any:
        """Return the plain values as lists of Python."""
        return self.numpy().tolist()

    def astype(self, dtype: npt.DTypeLike, **kwargs: Any) -> Any:
        """Return the value in another dtype; as a plain array if that is not floating, so has no derivative."""
        known = to_dtype(dtype)
        return convert(self, known) if is_floating(known) else self.numpy().astype(known)

    def copy(self) -> Any:
        """Return a traced copy."""
        return convert(self, self.dtype, copy=True)

    def dot(self, other: Any) -> Any:
        """Return ``np.dot(self, other)``."""
        return np.dot(self, other)

    def take(self, indices: Any, axis: int | None = None) -> Any:
        """Return ``np.take(self, indices, axis)``."""
        return take(self, indices, axis)

    def clip(self, *args: Any, **kwargs: Any) -> Any:
        """Return ``np.clip(self, ...)``."""
        return clip(self, *args, **kwargs)

    def transpose(self, *axes: Any) -> Any:
        """Return the array with its axes in another order, given as a tuple or one by one."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None
        return anp.transpose(self, order)

    def __float__(self) -> float:
        # ``array[i] = x`` asks for a float, as float(x) does; the caller's instruction tells them apart.
        frame = inspect.currentframe()
        caller = None if frame is None else frame.f_back
        if is_followed(self) and caller and caller.f_code.co_code[caller.f_lasti] == _STORE_SUBSCR:
            raise untraceable("ndarray.__setitem__", "was to be stored in an array", _JOIN)
        return float(getval(self))

    def __int__(self) -> int:
        return int(getval(self))

    def __round__(self, digits: int | None = None) -> Any:
        return round(getval(self)[()], digits)

    def __format__(self, spec: str) -> str:
        return format(np.asarray(getval(self))[()], spec)

    def __str__(self) -> str:
        return str(getval(self))

    def __repr__(self) -> str:
        return f"<traced value shape={self.shape} dtype={self.dtype.name} value={getval(self)}>"


@primitive  # type: ignore[untyped-decorator]
def gather(table: Any, indices: Indices, order: int) -> Any:
    """Return rows of a variable, whose gradient is then sparse; ``order`` is the number of the gather."""
    return table[indices]


def _gather_vjp(ans: Any, table: Any, indices: Indices, order: int) -> Any:
    def vjp(g: Any) -> Any:
        if isbox(g):  # a tape follows this gradient: stay with what autograd can differentiate again
            return untake(g, indices, vspace(table))
        return Rows(order, np.reshape(g, (-1, *table.shape[1:])), indices.ravel() % len(table))

    return vjp


defvjp(gather, _gather_vjp, argnums=(0,))


def _as_row_indices(index: Any) -> Indices | None:
    """Return ``index`` as an array if it names rows (one array or list of integers), else None."""
    if not isinstance(index, (list, np.ndarray)):
        return None
    array = np.asarray(index)
    if array.ndim == 0 or not (array.dtype.kind in "iu" or (array.size == 0 and isinstance(index, list))):
        return None
    return array.astype(np.int64, copy=False)


for _type in [known for known, box in Box.type_mappings.items() if box is ArrayBox]:
    TracedArray.register(_type)
TracedArray.register(ml_dtypes.bfloat16)
ArrayVSpace.register(ml_dtypes.bfloat16)
TracedArray.register(Value)
ArrayVSpace.register(Value)
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    # ``loss += penalty`` binds a new value, as for every immutable number.
    setattr(TracedArray, f"__i{_name}__", getattr(TracedArray, f"__{_name}__"))
