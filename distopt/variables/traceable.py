"""The functions of NumPy that can be traced, in autograd's version or, for a few, in ours; all others are refused."""

from __future__ import annotations

import itertools
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.tracer import isbox, trace_primitives_map

from distopt.errors import UntraceableError
from distopt.variables.array_like import read

_CURE = "Write it with other NumPy functions, or take the value out of the gradient: distopt.stop_gradient(x)."


def untraceable(name: str, why: str, cure: str = _CURE) -> UntraceableError:
    """Return the error for an operation that would lose the gradient."""
    return UntraceableError(f"np.{name} of a traced value {why}; its gradient would be lost. {cure}")


def call_traced(func: Any, args: Any, kwargs: Any) -> Any:
    """Call the traceable counterpart of a function or ufunc of NumPy; at least one argument is traced."""
    name, counterpart = func.__name__, _counterpart(func)
    if counterpart is None:
        raise untraceable(name, "has no derivative")
    args, kwargs = read(args), read(kwargs)
    if getattr(counterpart, "_is_autograd_primitive", False) and _hides_traced(args, kwargs):
        raise untraceable(name, "is followed only as a positional argument, and not inside of a list")
    try:
        return counterpart(*args, **kwargs)
    except UntraceableError:
        raise
    except TypeError as error:
        raise untraceable(name, f"was refused ({error})") from error


def _counterpart(func: Any) -> Any:
    if func in _SUPPLEMENTS:
        return _SUPPLEMENTS[func]
    if isinstance(func, np.ufunc):
        return trace_primitives_map.get(func)
    rooms = {"numpy": anp, "numpy.linalg": anp.linalg, "numpy.fft": anp.fft}
    return getattr(rooms.get(func.__module__), func.__name__, None)


def _hides_traced(args: Any, kwargs: Any) -> bool:
    """Return whether a traced value is in a place where a primitive of autograd does not look for one."""
    nested = (item for arg in args if type(arg) in (list, tuple) for item in arg)
    return any(map(_contains_traced, itertools.chain(nested, kwargs.values())))


def _contains_traced(value: Any) -> bool:
    return isbox(value) or (type(value) in (list, tuple) and any(map(_contains_traced, value)))


def take(a: Any, indices: Any, axis: int | None = None) -> Any:
    """Return ``np.take(a, indices, axis)``, by indexing."""
    indices = np.asarray(indices)
    if axis is None:
        return anp.ravel(a)[indices]
    return a[indices] if axis % a.ndim == 0 else a[(slice(None),) * (axis % a.ndim) + (indices,)]


def _take_along_axis(arr: Any, indices: Any, axis: int | None = -1) -> Any:
    if axis is None:
        return take(arr, indices)
    grid = list(np.ogrid[tuple(slice(n) for n in arr.shape)])
    grid[axis] = indices
    return arr[tuple(grid)]


def _flip(m: Any, axis: int | tuple[int, ...] | None = None) -> Any:
    axes = range(m.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    flipped = {a % m.ndim for a in axes}
    return m[tuple(slice(None, None, -1 if i in flipped else 1) for i in range(m.ndim))]


def _broadcast_to(array: Any, shape: Any) -> Any:
    return array if array.shape == shape else array + np.zeros(shape, array.dtype)


def _where(condition: Any, *choices: Any) -> Any:
    """Return ``np.where`` of choices that are broadcast first, as autograd gives them gradients of wrong shapes."""
    if not choices:
        return anp.nonzero(condition)
    shape = np.broadcast_shapes(np.shape(condition), *map(np.shape, choices))
    return anp.where(condition, *(_broadcast_to(x, shape) if isbox(x) else x for x in choices))


def _tile(A: Any, reps: Any) -> Any:  # noqa: N803 (NumPy's name)
    """Return ``np.tile``, which counts axes from the last: autograd's version counts them from the first."""
    each = (reps,) if np.ndim(reps) == 0 else tuple(reps)
    return anp.tile(A, (1,) * (A.ndim - len(each)) + each)


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """Return ``np.linalg.norm``: autograd's gradient has a wrong shape with keepdims, and is NaN for a maximum norm."""
    if ord in (np.inf, -np.inf):
        raise untraceable("linalg.norm", f"has no derivative with ord={ord}", "Use np.max(np.abs(x)).")
    norm = anp.linalg.norm(x, ord, axis)
    return anp.expand_dims(norm, tuple(range(x.ndim)) if axis is None else axis) if keepdims else norm


def clip(a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    """Return ``np.clip``, also with NumPy's newer argument names."""
    return anp.clip(a, min if a_min is None else a_min, max if a_max is None else a_max)


_SUPPLEMENTS: dict[Any, Any] = {
    np.positive: lambda x: x,
    np.copy: lambda a: a.copy(),
    np.astype: lambda x, dtype, **kwargs: x.astype(dtype),
    np.broadcast_to: _broadcast_to,
    np.take: take,
    np.take_along_axis: _take_along_axis,
    np.flip: _flip,
    np.pad: lambda array, pad_width, mode="constant", **kwargs: anp.pad(array, pad_width, mode, **kwargs),
    np.where: _where,
    np.tile: _tile,
    np.clip: clip,
    np.linalg.norm: _norm,
    np.select: None,  # autograd's own calls itself without end
}
