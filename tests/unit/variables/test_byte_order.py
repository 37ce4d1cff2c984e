"""Arrays of the other byte order become the machine's where they enter."""

import numpy as np
import pytest

from distopt import IndexedSlices, Variable
from distopt.arrays import to_dtype
from distopt.optimizers import legacy


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", ">i2", ">c8"])
def test_byte_order_of_a_variable_is_the_machines(dtype):
    given = np.array([1, 2]).astype(dtype)
    for v in (Variable(given), Variable([1.0, 2.0], dtype=dtype), Variable(np.zeros(2, dtype[1:])).assign(given)):
        assert v.dtype.isnative
        assert v.numpy().tolist() == [1, 2]
    assert IndexedSlices(given, np.array([0, 1], ">i8")).values.dtype.isnative


@pytest.mark.parametrize("name", ["float32", "int64", "bool", "float16"])
def test_a_native_dtype_is_numpys_own_object(name):
    assert to_dtype(name) is np.dtype(name)
    assert Variable(np.zeros(2, name), dtype=name).dtype is np.dtype(name)
    if name.startswith("float"):
        assert legacy.SGD().add_weight("m", (), dtype=name).dtype is np.dtype(name)
