"""Dtypes by name, which are NumPy's, and classes that stand in annotations and ``isinstance``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from distopt.arrays import is_floating, to_dtype
from distopt.ops.making import is_tensor
from distopt.variables.variable import Variable

DTYPES = {
    name: to_dtype(name)
    for name in (
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
} | {"half": to_dtype("float16"), "double": to_dtype("float64"), "string": np.dtype(object)}

DType = np.dtype


def as_dtype(type_value: Any) -> np.dtype[Any]:
    """Return a dtype: of a name, of a type of NumPy, or itself."""
    return to_dtype(type_value)


def is_float_dtype(dtype: Any) -> bool:
    """Return whether a dtype is real and floating."""
    known = to_dtype(dtype)
    return is_floating(known) and known.kind != "c"


def is_int_dtype(dtype: Any) -> bool:
    """Return whether a dtype is one of integers."""
    return to_dtype(dtype).kind in "iu"


def standardize_dtype(dtype: Any) -> str:
    """Return the name of a dtype, float32 by default."""
    return to_dtype("float32" if dtype is None else dtype).name


def result_type(*dtypes: Any) -> str:
    """Return the name of the dtype in which values of these dtypes are computed."""
    return np.result_type(*map(to_dtype, dtypes)).name if dtypes else "float32"


class _OfTensors(type):
    """Makes every array an instance, and no variable."""

    def __instancecheck__(cls, instance: object) -> bool:
        return is_tensor(instance) and not isinstance(instance, Variable)


class Tensor(metaclass=_OfTensors):
    """Arrays, numbers of NumPy and traced values, for ``isinstance``."""


class Operation:
    """The class of TensorFlow's operations; there are none here."""


class Graph:
    """The class of TensorFlow's graphs; there are none here."""


class SparseTensor:
    """The class of TensorFlow's sparse tensors; gradients of distopt are ``IndexedSlices``."""


class KerasTensor:
    """The class of Keras' symbolic tensors; there are none here."""


class RaggedTensor:
    """The class of TensorFlow's ragged tensors; there are none here."""


class TensorShape(tuple[int, ...]):
    """A shape: a tuple with the attributes of TensorFlow's.

    Args:
        dims: the lengths of the axes.
    """

    def __new__(cls, dims: Iterable[int] | int = ()) -> TensorShape:
        """Make a shape."""
        return super().__new__(cls, (dims,) if isinstance(dims, int) else tuple(dims))

    @property
    def rank(self) -> int:
        """Return the number of axes."""
        return len(self)

    def as_list(self) -> list[int]:
        """Return the lengths as a list."""
        return list(self)

    def num_elements(self) -> int:
        """Return the number of elements."""
        return int(np.prod(self, dtype=np.int64))


class Absent:
    """The base of Keras' classes that stand in annotations and ``isinstance``, and can't be made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            f"{type(self).__name__}: distopt has no layers, models, metrics, regularizers and callbacks. Write "
            "the loss with NumPy, or train a model of Keras by distopt.adapters.keras"
        )


def absent(*names: str) -> dict[str, type]:
    """Return such classes by name."""
    return {name: type(name, (Absent,), {"__module__": __name__}) for name in names}
