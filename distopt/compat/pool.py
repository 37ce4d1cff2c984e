"""The functions of TensorFlow by name: one list for ``tf``, ``tf.math``, ``tf.linalg``, ``tf.nn`` and others."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from distopt import losses, ops
from distopt.compat import distribution, dtypes
from distopt.compat.functions import arrays, choosing, control, linalg, math, raw_ops, sparse_raw_ops
from distopt.compat.names import made, public
from distopt.gradients import GradientTape, UnconnectedGradients
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable

_OF_ONE = (
    *("abs", "cos", "cosh", "exp", "expm1", "floor", "log", "log1p", "negative", "real", "imag", "conj", "angle"),
    *("reciprocal", "rsqrt", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh", "ceil", "logical_not", "relu"),
    *("sigmoid", "softplus", "softsign", "silu", "gelu", "log_softmax", "softmax", "cholesky", "det"),
)
_OF_TWO = (
    *("add", "subtract", "multiply", "maximum", "minimum", "mod", "equal", "not_equal", "greater", "greater_equal"),
    *("less", "less_equal", "logical_and", "logical_or", "logical_xor", "divide_no_nan"),
)
_RENAMED_OF_ONE = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "asinh": "arcsinh",
    "acosh": "arccosh",
    "atanh": "arctanh",
    "is_nan": "isnan",
    "is_inf": "isinf",
    "is_finite": "isfinite",
    "swish": "silu",
}
_RENAMED_OF_TWO = {
    "truediv": "divide",
    "floordiv": "floor_divide",
    "floormod": "mod",
    "atan2": "arctan2",
    "div_no_nan": "divide_no_nan",
}


def _of_one(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def operation(x: Any, axis: Any = None, name: str | None = None) -> Any:
        operand = x if isinstance(x, IndexedSlices) else arrays.convert_to_tensor(x)
        return made(function(operand) if axis is None else function(operand, axis=axis))

    return operation


def _of_two(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def operation(x: Any, y: Any, name: str | None = None) -> Any:
        operands = (arrays.convert_to_tensor(each) if isinstance(each, (list, tuple)) else each for each in (x, y))
        return made(function(*operands))

    return operation


def assign(ref: Variable, value: Any, use_locking: bool = False, name: str | None = None, **options: Any) -> Any:
    """Set a variable."""
    return ref.assign(value)


def assign_add(ref: Variable, value: Any, use_locking: bool = False, name: str | None = None, **options: Any) -> Any:
    """Add to a variable."""
    return ref.assign_add(value)


def assign_sub(ref: Variable, value: Any, use_locking: bool = False, name: str | None = None, **options: Any) -> Any:
    """Subtract from a variable."""
    return ref.assign_sub(value)


def _rows(method: str) -> Callable[..., Any]:
    def operation(ref: Any, indices: Any, updates: Any, use_locking: bool = False, name: str | None = None) -> Any:
        rows = ops.convert_to_numpy(updates)
        return getattr(ref, method)(IndexedSlices(rows, np.asarray(indices).ravel()))

    return operation


def _same(names: Iterable[str]) -> dict[str, str]:
    return {name: name for name in names}


def _snake_case(name: str) -> str:
    """Return the name of a raw operation in snake case: ``resource_apply_rms_prop`` of ``ResourceApplyRMSProp``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


RAW_OPS = public(raw_ops, sparse_raw_ops)

TRAINING_OPS = {_snake_case(name): operation for name, operation in RAW_OPS.items()}
"""The raw operations as ``tensorflow.python.training.training_ops`` names them."""

POOL: dict[str, Any] = {
    **public(arrays, choosing, math, linalg, control, dtypes),
    **{name: _of_one(getattr(ops, known)) for name, known in {**_same(_OF_ONE), **_RENAMED_OF_ONE}.items()},
    **{name: _of_two(getattr(ops, known)) for name, known in {**_same(_OF_TWO), **_RENAMED_OF_TWO}.items()},
    **TRAINING_OPS,
    **dtypes.DTYPES,
    **{
        method: _rows(method)
        for method in ("scatter_add", "scatter_sub", "scatter_update", "scatter_mul", "scatter_div")
    },
    "GradientTape": GradientTape,
    "IndexedSlices": IndexedSlices,
    "DType": dtypes.DType,
    "UnconnectedGradients": UnconnectedGradients,
    "Variable": Variable,
    "VariableAggregation": distribution.VariableAggregation,
    "VariableSynchronization": distribution.VariableSynchronization,
    "assign": assign,
    "assign_add": assign_add,
    "assign_sub": assign_sub,
    "compute_average_loss": losses.compute_average_loss,
    "newaxis": None,
    "print": print,
    "scale_regularization_loss": losses.scale_regularization_loss,
}
