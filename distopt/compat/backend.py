"""The names of ``keras.backend``: those of Keras 3, and the functions on tensors of Keras 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distopt import ops
from distopt.arrays import Array, to_dtype
from distopt.compat.functions import arrays, linalg, math
from distopt.compat.functions import random as tf_random
from distopt.errors import InvalidArgumentError
from distopt.variables.variable import Variable

_epsilon = 1e-7


def epsilon() -> float:
    """Return the small number of the backend."""
    return _epsilon


def set_epsilon(value: float) -> None:
    """Set the small number of the backend."""
    global _epsilon
    _epsilon = float(value)


def floatx() -> str:
    """Return the default dtype."""
    return "float32"


def set_floatx(value: str) -> None:
    """Refuse another default dtype than float32."""
    if value != "float32":
        raise InvalidArgumentError(
            f"set_floatx({value!r}): the default dtype of distopt is float32. Give variables a dtype of their own: "
            f"Variable(x, dtype={value!r})"
        )


def backend() -> str:
    """Return the name of the backend."""
    return "numpy"


def image_data_format() -> str:
    """Return the order of the axes of images."""
    return "channels_last"


def is_sparse(tensor: Any) -> bool:
    """Return False: there is no SparseTensor, and upstream gives False for IndexedSlices, too."""
    return False


def is_keras_tensor(x: Any) -> bool:
    """Return False: nothing is symbolic."""
    return False


def in_stateless_scope() -> bool:
    """Return False: variables are written at once."""
    return False


def clear_session(free_memory: bool = True) -> None:
    """Do nothing."""


def variable(value: Any, dtype: Any = None, name: str | None = None, constraint: Any = None) -> Variable:
    """Return a variable, float32 by default."""
    return Variable(ops.cast(arrays.convert_to_tensor(value), dtype or "float32"), name=name, constraint=constraint)


def zeros(shape: Any, dtype: Any = None, name: str | None = None) -> Variable:
    """Return a variable of zeros."""
    return Variable(arrays.zeros(shape, dtype or "float32"), name=name)


def ones(shape: Any, dtype: Any = None, name: str | None = None) -> Variable:
    """Return a variable of ones."""
    return Variable(arrays.ones(shape, dtype or "float32"), name=name)


def get_value(x: Any) -> Array:
    """Return the plain value."""
    return ops.convert_to_numpy(x)


def eval(x: Any) -> Array:
    """Return the plain value."""
    return ops.convert_to_numpy(x)


def set_value(x: Variable, value: Any) -> None:
    """Set a variable."""
    x.assign(value)


def batch_get_value(tensors: Sequence[Any]) -> list[Array]:
    """Return plain values."""
    return [get_value(each) for each in tensors]


def batch_set_value(tuples: Sequence[tuple[Variable, Any]]) -> None:
    """Set variables."""
    for each, value in tuples:
        each.assign(value)


def update(x: Variable, new_x: Any) -> Variable:
    """Set a variable."""
    return x.assign(new_x)


def update_add(x: Variable, increment: Any) -> Variable:
    """Add to a variable."""
    return x.assign_add(increment)


def update_sub(x: Variable, decrement: Any) -> Variable:
    """Subtract from a variable."""
    return x.assign_sub(decrement)


def moving_average_update(x: Variable, value: Any, momentum: Any) -> Variable:
    """Replace a variable by ``x * momentum + value * (1 - momentum)``."""
    return x.assign(ops.add(ops.multiply(x, momentum), ops.multiply(value, 1 - momentum)))


def cast_to_floatx(x: Any) -> Any:
    """Return a value as float32."""
    return ops.cast(x, "float32")


def int_shape(x: Any) -> tuple[int, ...]:
    """Return the shape."""
    return ops.shape(x)


def dtype(x: Any) -> str:
    """Return the name of the dtype."""
    return to_dtype(x.dtype).name


def sqrt(x: Any) -> Any:
    """Return the root, of negative numbers 0."""
    return ops.sqrt(ops.maximum(x, 0))


def sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Return the sum along axes."""
    return math.reduce_sum(x, axis, keepdims)


def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Return the mean along axes; of integers and booleans as float32."""
    array = arrays.convert_to_tensor(x)
    return math.reduce_mean(ops.cast(array, "float32") if array.dtype.kind in "iub" else array, axis, keepdims)


def clip(x: Any, min_value: Any, max_value: Any) -> Any:
    """Return a value, limited to a range; None is no limit."""
    lower = -np.inf if min_value is None else min_value
    return math.clip_by_value(x, lower, np.inf if max_value is None else max_value)


def l2_normalize(x: Any, axis: Any = None) -> Any:
    """Return a value over its norm along an axis."""
    return math.l2_normalize(x, axis)


def dot(x: Any, y: Any) -> Any:
    """Return the product of matrices."""
    return linalg.matmul(x, y)


def switch(condition: Any, then_expression: Any, else_expression: Any) -> Any:
    """Return one of two values, or of the results of two functions; element by element for arrays of conditions."""
    if np.ndim(condition) == 0:
        chosen = then_expression if condition else else_expression
        return chosen() if callable(chosen) else chosen
    then, other = (each() if callable(each) else each for each in (then_expression, else_expression))
    return ops.where(condition, then, other)


def random_normal(
    shape: Any, mean: float = 0.0, stddev: float = 1.0, dtype: Any = None, seed: int | None = None
) -> Any:
    """Return normally distributed numbers."""
    return tf_random.normal(shape, mean, stddev, dtype or "float32", seed)


def random_uniform(
    shape: Any, minval: float = 0.0, maxval: float = 1.0, dtype: Any = None, seed: int | None = None
) -> Any:
    """Return equally distributed numbers."""
    return tf_random.uniform(shape, minval, maxval, dtype or "float32", seed)


def symbolic(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function as it is."""
    return func
