"""Variables as TensorFlow's and Keras' optimizers use them: rows, initial values, arguments without effect."""

import numpy as np
import pytest

from distopt import GradientTape, IndexedSlices, Variable
from distopt.errors import InvalidArgumentError
from distopt.initializers import Ones

ROWS = IndexedSlices([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [2, 0, 2])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scatter_add", [[13, 14], [10, 10], [16, 18]]),
        ("scatter_sub", [[7, 6], [10, 10], [4, 2]]),
        ("scatter_update", [[3, 4], [10, 10], [5, 6]]),
        ("scatter_mul", [[30, 40], [10, 10], [50, 120]]),
        ("scatter_div", [[10 / 3, 2.5], [10, 10], [2, 10 / 12]]),
        ("scatter_max", [[10, 10], [10, 10], [10, 10]]),
        ("scatter_min", [[3, 4], [10, 10], [1, 2]]),
    ],
)
def test_rows_are_written_in_order(name, expected):
    v = Variable(np.full((3, 2), 10, "f4"))
    assert getattr(v, name)(ROWS, use_locking=True) is v
    np.testing.assert_allclose(v, expected, rtol=1e-6)


def test_places_of_several_axes():
    v = Variable(np.zeros((2, 3), "f4"))
    at = [[0, 1], [1, 2]]
    np.testing.assert_array_equal(v.scatter_nd_add(at, [1.0, 2.0]), [[0, 1, 0], [0, 0, 2]])
    np.testing.assert_array_equal(v.scatter_nd_sub(at, [2.0, 2.0]), [[0, -1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(v.scatter_nd_update(at, [5.0, 6.0]), [[0, 5, 0], [0, 0, 6]])
    np.testing.assert_array_equal(v.gather_nd(at), [5, 6])


def test_reading_rows():
    v = Variable(np.arange(6, dtype="f4").reshape(3, 2))
    rows = v.sparse_read(np.array([2, 0]))
    v.assign(np.zeros((3, 2)))
    np.testing.assert_array_equal(rows, [[4, 5], [0, 1]])
    assert (v.handle, v.rank) == (v, 2)
    with GradientTape() as tape:
        y = np.sum(v.sparse_read([1, 1]))
    assert tape.gradient(y, v).indices.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: v.scatter_add(np.ones((3, 2))), "expected IndexedSlices"),
        (lambda v: v.scatter_update(IndexedSlices([[1.0, 2.0]], [3])), "the last row is 2"),
        (lambda v: v.assign(ROWS), r"only some rows: variable.scatter_update\(slices\) sets these"),
    ],
)
def test_rows_that_do_not_fit(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call(Variable(np.zeros((3, 2), "f4")))


def test_arguments_of_tensorflow():
    v = Variable([1.0, 2.0], aggregation="mean", synchronization="on_read", regularizer="l2")
    assert (v.aggregation, v.synchronization, v.regularizer) == ("mean", "on_read", "l2")
    assert v.assign([3.0, 4.0], True, "name", read_value=False) is v
    assert v.assign_add([1.0, 1.0], True, read_value=False) is v
    assert v.assign_sub([1.0, 1.0], True, read_value=False) is v
    np.testing.assert_array_equal(v, [3, 4])


def test_initial_values_by_initializer():
    np.testing.assert_array_equal(Variable(initializer="ones", shape=(2,)), [1, 1])
    np.testing.assert_array_equal(Variable(Ones(), shape=(2,), dtype="int32"), [1, 1])
    np.testing.assert_array_equal(Variable(lambda shape, dtype: np.full(shape, 2, dtype), shape=(2,)), [2, 2])
    assert Variable(lambda: 3.0).numpy() == 3
    assert Variable([1.0, 2.0], shape=(2,)).shape == (2,)
    for bad in (lambda: Variable([1.0], shape=(2,)), lambda: Variable(shape=(2,)), lambda: Variable()):
        with pytest.raises(InvalidArgumentError, match="or the name of an initializer"):
            bad()


def test_names_in_the_form_of_keras():
    v, w = Variable(1.0), Variable(1.0)
    assert v.name.startswith("variable")
    assert w.name.startswith("variable_")
