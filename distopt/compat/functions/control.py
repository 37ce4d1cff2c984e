"""TensorFlow's control flow: everything runs at once, in the order in which it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from distopt import ops
from distopt.errors import InvalidArgumentError

Function = Callable[..., Any]


def function(func: Function | None = None, *args: Any, **kwargs: Any) -> Any:
    """Return a function as it is; options of tracing have no effect."""
    return func if callable(func) else lambda decorated: decorated


def do_not_convert(func: Function | None = None) -> Any:
    """Return a function as it is."""
    return function(func)


def executing_eagerly() -> bool:
    """Return True."""
    return True


def cond(pred: Any, true_fn: Function, false_fn: Function) -> Any:
    """Return ``true_fn()`` if ``pred`` holds, else ``false_fn()``."""
    return true_fn() if pred else false_fn()


def case(pred_fn_pairs: Any, default: Function | None = None, exclusive: bool = False, strict: bool = False) -> Any:
    """Return the result of the first function whose condition holds, else of the default."""
    pairs = pred_fn_pairs.items() if isinstance(pred_fn_pairs, dict) else pred_fn_pairs
    for pred, chosen in pairs:
        if pred:
            return chosen()
    if default is None:
        raise InvalidArgumentError("case: no condition holds, and there is no default. Give default=")
    return default()


def switch_case(branch_index: Any, branch_fns: Any, default: Function | None = None) -> Any:
    """Return the result of the function of this number; of the default, or the last one, where there is none."""
    branches = dict(branch_fns.items() if isinstance(branch_fns, dict) else enumerate(branch_fns))
    last = branches[max(branches)] if default is None else default
    return branches.get(int(branch_index), last)()


def while_loop(cond: Function, body: Function, loop_vars: Any, **options: Any) -> Any:
    """Return the loop variables, after ``body`` has replaced them as long as ``cond`` holds."""
    return ops.while_loop(cond, body, loop_vars, options.get("maximum_iterations"))


def map_fn(fn: Function, elems: Any, **options: Any) -> Any:
    """Return the results of a function of each element along the first axis, put side by side."""
    rows = zip(*elems, strict=True) if isinstance(elems, (list, tuple)) else elems
    results = [fn(row) for row in rows]
    if isinstance(results[0], (list, tuple)):
        return type(results[0])(np.stack(part) for part in zip(*results, strict=True))
    return np.stack(results)


def vectorized_map(fn: Function, elems: Any, **options: Any) -> Any:
    """Return the results of a function of each element, as ``map_fn`` does."""
    return map_fn(fn, elems)


@contextmanager
def control_dependencies(control_inputs: Any = None) -> Iterator[None]:
    """Do nothing: what is written first has run first."""
    yield


@contextmanager
def name_scope(name: Any = None, *args: Any, **kwargs: Any) -> Iterator[str]:
    """Do nothing; names stay as they are."""
    yield f"{name}/"


@contextmanager
def device(device_name: Any = None) -> Iterator[None]:
    """Do nothing: variables lie in the memory of the machine."""
    yield


@contextmanager
def init_scope() -> Iterator[None]:
    """Do nothing."""
    yield


@contextmanager
def variable_scope(*args: Any, **kwargs: Any) -> Iterator[None]:
    """Do nothing; names stay as they are."""
    yield


def group(*inputs: Any, **kwargs: Any) -> None:
    """Do nothing: what was to be grouped has run."""


def no_op(name: str | None = None) -> None:
    """Do nothing."""


def flatten(structure: Any, expand_composites: bool = False) -> list[Any]:
    """Return what nested lists, tuples and dicts hold; dicts in the order of their keys."""
    if isinstance(structure, dict):
        return [item for key in sorted(structure) for item in flatten(structure[key])]
    if isinstance(structure, (list, tuple)):
        return [item for each in structure for item in flatten(each)]
    return [structure]


def map_structure(func: Function, *structures: Any, **options: Any) -> Any:
    """Return a structure of the results of a function of what nested lists, tuples and dicts hold."""
    first = structures[0]
    if isinstance(first, dict):
        return {key: map_structure(func, *(each[key] for each in structures)) for key in first}
    if isinstance(first, (list, tuple)):
        results = [map_structure(func, *parts) for parts in zip(*structures, strict=True)]
        return type(first)(*results) if hasattr(first, "_fields") else type(first)(results)
    return func(*structures)


def smart_cond(pred: Any, true_fn: Function, false_fn: Function) -> Any:
    """Return ``true_fn()`` if ``pred`` holds, else ``false_fn()``."""
    return cond(pred, true_fn, false_fn)


def list_physical_devices(device_type: str | None = None) -> list[Any]:
    """Return no devices: variables lie in the memory of the machine."""
    return []


def custom_gradient(f: Function) -> Function:
    """Return a function that refuses to be called: the tape knows the derivatives of NumPy's functions alone."""

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f"{f.__name__} has a custom_gradient, which no tape here follows: write the function with NumPy"
        )

    return refused
