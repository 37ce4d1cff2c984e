"""ops: NumPy's values under Keras's names, for every kind of operand."""

from __future__ import annotations

import numpy as np
import pytest

from distopt import GradientTape, IndexedSlices, Variable, ops

A = np.array([[1.0, -2.0], [3.0, 0.5]], "f4")
B = np.array([[2.0, 4.0], [0.5, 1.0]], "f4")

UNARY = (
    "abs absolute sign square sqrt tanh floor exp log log1p reciprocal isfinite isnan logical_not all any "
    "argmax cumsum max mean min prod std sum var ones_like zeros_like ravel squeeze transpose negative"
)
BINARY = (
    "add subtract multiply divide true_divide power pow matmul dot maximum minimum mod floor_divide equal "
    "not_equal greater greater_equal less less_equal logical_and logical_or"
)


def sparse(array, *rows):
    return IndexedSlices(array[list(rows)], list(rows), array.shape)


@pytest.mark.parametrize("name", UNARY.split())
@pytest.mark.parametrize("make", [np.array, Variable, lambda a: sparse(a, 0, 1)], ids=["array", "Variable", "rows"])
def test_functions_of_one_operand(name, make):
    expected = getattr(np, name)(B)
    got = getattr(ops, name)(make(B))
    got = got.to_dense() if isinstance(got, IndexedSlices) else got
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == expected.dtype


@pytest.mark.parametrize("name", BINARY.split())
@pytest.mark.parametrize("make", [np.array, Variable, lambda a: sparse(a, 0, 1)], ids=["array", "Variable", "rows"])
def test_functions_of_two_operands(name, make):
    expected = getattr(np, name)(A, B)
    for got in (getattr(ops, name)(make(A), B), getattr(ops, name)(A, make(B))):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == expected.dtype


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_numbers_of_python_take_the_dtype_beside_them_or_float32(dtype):
    v = Variable([1.0, 2.0], dtype=dtype)
    assert ops.multiply(v, 0.5).dtype == v.dtype
    assert ops.subtract(1.0, v).dtype == v.dtype
    assert ops.maximum(v, 0).dtype == v.dtype
    assert ops.sqrt(2).dtype == np.float32
    assert ops.add(1, 2.5).dtype == np.float32
    assert ops.multiply([1.0, 2.0], 2).dtype == np.float32


def test_scaling_keeps_rows():
    rows = IndexedSlices([[1.0, 2.0], [3.0, 4.0]], [1, 1], (3, 2))
    for got, factor in [
        (ops.multiply(rows, 2), 2),
        (ops.multiply(ops.cast(2, "float32"), rows), 2),
        (ops.multiply(rows, Variable(2.0)), 2),
        (ops.divide(rows, np.float32(2)), 0.5),
        (ops.negative(rows), -1),
        (ops.cast(rows, "float64"), 1),
    ]:
        assert isinstance(got, IndexedSlices)
        assert got.indices.tolist() == [1, 1]
        np.testing.assert_array_equal(got.values, rows.values * factor)
    assert ops.cast(rows, "float64").dtype == np.float64


@pytest.mark.parametrize("name", ["square", "abs", "sqrt", "sign", "tanh"])
def test_functions_that_keep_rows_sum_repeated_ones_first(name):
    rows = IndexedSlices([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [1, 0, 1], (3, 2))
    got = getattr(ops, name)(rows)
    assert isinstance(got, IndexedSlices)
    np.testing.assert_array_equal(got.to_dense(), getattr(np, name)(rows.to_dense()))


def test_anything_else_makes_rows_dense():
    rows = IndexedSlices([[1.0, 2.0], [3.0, 4.0]], [1, 1], (3, 2))
    np.testing.assert_array_equal(ops.add(rows, rows), 2 * rows.to_dense())
    np.testing.assert_array_equal(ops.multiply(np.ones((3, 2), "f4"), rows), rows.to_dense())
    np.testing.assert_array_equal(ops.exp(rows), np.exp(rows.to_dense()))
    assert ops.norm(rows) == np.linalg.norm(rows.to_dense())


def test_making_and_shaping():
    v = Variable(A)
    assert ops.zeros((2, 3)).dtype == np.float32
    assert ops.ones(4, "bfloat16").dtype.name == "bfloat16"
    np.testing.assert_array_equal(ops.full((2,), 3, "int64"), [3, 3])
    np.testing.assert_array_equal(ops.full_like(v, 2), np.full((2, 2), 2, "f4"))
    assert ops.shape(v) == ops.shape(sparse(A, 0)) == (2, 2)
    assert ops.shape(1.0) == ()
    assert ops.reshape(v, (4,)).shape == (4,)
    assert ops.expand_dims(v, 0).shape == ops.broadcast_to(v, (1, 2, 2)).shape == (1, 2, 2)
    np.testing.assert_array_equal(ops.clip(v, -1, 1), np.clip(A, -1, 1))
    np.testing.assert_array_equal(ops.where(v > 0, v, 0.0), np.where(A > 0, A, 0))
    np.testing.assert_array_equal(ops.gather(v, [1, 1]), A[[1, 1]])
    np.testing.assert_array_equal(ops.take(v, [0], axis=1), A[:, :1])
    np.testing.assert_array_equal(ops.concatenate([v, v]), np.concatenate([A, A]))
    np.testing.assert_array_equal(ops.sum(v, axis=0, keepdims=True), A.sum(axis=0, keepdims=True))
    np.testing.assert_allclose(ops.rsqrt(B), 1 / np.sqrt(B), rtol=1e-6)
    assert ops.cond(v[0, 0] > 0, lambda: "yes", lambda: "no") == "yes"


@pytest.mark.parametrize("name", ["convert_to_tensor", "transpose", "ravel", "squeeze"])
def test_results_do_not_change_with_the_variable(name):
    v = Variable(A)
    before = getattr(ops, name)(v)
    kept = before.copy()
    v.assign(B)
    np.testing.assert_array_equal(before, kept)


def test_convert_to_tensor():
    assert ops.convert_to_tensor([1, 2]).dtype == np.float32
    assert ops.convert_to_tensor(A, "float64").dtype == np.float64
    assert ops.convert_to_tensor(A) is A
    assert ops.cast(True, "bfloat16").dtype.name == "bfloat16"


def test_ops_are_traced():
    v, table = Variable([1.0, 2.0]), Variable(A)
    with GradientTape() as tape:
        y = ops.sum(ops.multiply(ops.square(v), 3)) + ops.sum(ops.gather(table, [1, 1]))
        y = ops.add(y, ops.sum(ops.multiply(v, ops.stop_gradient(v))))
        y = ops.add(y, ops.mean(ops.reshape(ops.cast(v, "float64"), (2, 1))))
    grad, rows = tape.gradient(y, [v, table])
    np.testing.assert_array_equal(grad, [7.5, 14.5])
    assert isinstance(rows, IndexedSlices)
    assert rows.indices.tolist() == [1, 1]


def test_the_momentum_step_of_the_keras_page():
    v, m, gradient = Variable([1.0, 2.0]), Variable([0.5, 0.5]), np.array([0.1, 0.2], "f4")
    learning_rate = ops.cast(0.5, v.dtype)
    gradient = ops.cast(gradient, v.dtype)
    m.assign(
        ops.subtract(ops.multiply(m, ops.cast(0.9, v.dtype)), ops.multiply(gradient, learning_rate)),
    )
    v.assign_add(m)
    np.testing.assert_allclose(v, [1.4, 2.35], rtol=1e-6)
    assert v.dtype == np.float32


IDS, FLOATS = np.array([1, 2], "i4"), np.array([1.0, 2.0], "f4")
FLOAT32 = {
    "where(c, 1., 2.)": lambda: ops.where([True, False], 1.0, 2.0),
    "where of a list": lambda: ops.where([True, False], [1.0, 2.0], 3.0),
    "where of integers": lambda: ops.where([True, False], IDS, FLOATS),
    "stack": lambda: ops.stack([1.0, 2.0]),
    "stack of an element": lambda: ops.stack([Variable(FLOATS)[0], 1.0]),
    "concatenate": lambda: ops.concatenate([[1.0], [2.0]]),
    "einsum": lambda: ops.einsum("i->", [1.0, 2.0]),
    "einsum of integers": lambda: ops.einsum("i,i->i", IDS, FLOATS),
    "arange(.1, 1.)": lambda: ops.arange(0.1, 1.0),
    "zeros(2, dtype=None)": lambda: ops.zeros(2, dtype=None),
    "ones(2, dtype=None)": lambda: ops.ones(2, dtype=None),
    "full(2, 1, dtype=None)": lambda: ops.full(2, 1, dtype=None),
    "int32 + float32": lambda: ops.add(IDS, FLOATS),
    "int64 and float32": lambda: ops.matmul(np.array([1, 2]), Variable(FLOATS)),
    "int32 + 1.5": lambda: ops.add(IDS, 1.5),
    "int32 / int32": lambda: ops.divide(IDS, IDS),
    "mean of integers": lambda: ops.mean(IDS),
    "norm of integers": lambda: ops.norm(IDS),
    "root of integers": lambda: ops.sqrt(IDS),
    "rsqrt of integers": lambda: ops.rsqrt(IDS),
    "reciprocal of integers": lambda: ops.reciprocal(IDS),
    "take": lambda: ops.take([1.0, 2.0], [0]),
    "clip of integers": lambda: ops.clip(IDS, 0.5, 1.5),
    "float32 + a float64 of NumPy": lambda: ops.where([True, False], FLOATS, np.float64(2)),
}


@pytest.mark.parametrize("compute", FLOAT32.values(), ids=FLOAT32)
def test_ops_give_float32_where_no_array_is_wider(compute):
    assert compute().dtype == np.float32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_integers_and_numbers_take_the_dtype_of_the_array_beside_them(dtype):
    v = Variable([1.0, 2.0], dtype=dtype)
    results = [ops.add(IDS, v), ops.where([True, False], v, 2.0), ops.clip(v, 0.5, 1.5), ops.stack([v, v]), ops.mean(v)]
    assert {result.dtype for result in results} == {v.dtype}


def test_reciprocals_of_integers_are_fractions():
    np.testing.assert_array_equal(ops.reciprocal(IDS), [1, 0.5])


def test_what_was_computed_in_float64_stays_so():
    mean = ops.mean(np.ones(2))
    results = ops.sqrt(mean), ops.add(mean, 1), ops.stack([mean, mean]), ops.stack(np.ones(2)), ops.where(True, mean, 0)
    assert {result.dtype for result in results} == {np.dtype(np.float64)}


def test_what_is_asked_for_is_given():
    assert ops.mean(FLOATS, dtype="float64").dtype == ops.arange(0.1, 1.0, dtype="float64").dtype == np.float64
    assert {ops.arange(3).dtype.kind, ops.sum(IDS).dtype.kind, ops.add(IDS, 1).dtype.kind} == {"i"}


def test_gradients_pass_what_is_made_narrower():
    v = Variable([1.0, 2.0])
    with GradientTape() as tape:
        y = ops.sum(ops.multiply(IDS, ops.where([True, False], v, np.float64(2))))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(tape.gradient(y, v), [1, 0])
