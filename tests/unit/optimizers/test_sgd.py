"""SGD of both families: the formula, dense and sparse, in every dtype."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_oracle import SGDOracle

from distopt import GradientTape, IndexedSlices, Variable, optimizers
from distopt.optimizers import legacy

FAMILIES = {"keras3": optimizers.SGD, "legacy": legacy.SGD}
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 1e-5, "float64": 1e-6}


@pytest.fixture(params=list(FAMILIES))
def family(request):
    return request.param


@pytest.mark.parametrize("dtype", DTYPES)
def test_basic_step_on_two_variables(family, dtype):
    a, b = Variable([1.0, 2.0], dtype=dtype), Variable([3.0, 4.0], dtype=dtype)
    sgd = FAMILIES[family](learning_rate=3.0)
    gradients = [np.array([0.125, 0.125], dtype), np.array([0.25, 0.25], dtype)]
    sgd.apply_gradients(zip(gradients, [a, b], strict=True))
    np.testing.assert_array_equal(a.numpy().astype(float), [0.625, 1.625])
    np.testing.assert_array_equal(b.numpy().astype(float), [2.25, 3.25])
    assert a.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_minimize_with_the_numbers_of_upstream(family, dtype):
    a, b = Variable([1.0, 2.0], dtype=dtype), Variable([3.0, 4.0], dtype=dtype)
    sgd = FAMILIES[family](learning_rate=3.0)
    assert int(sgd.minimize(lambda: 5 * a + 3 * b, [a, b])) == 1
    np.testing.assert_array_equal(a.numpy(), [-14, -13])
    np.testing.assert_array_equal(b.numpy(), [-6, -5])


def test_single_step_of_keras_3():
    x = Variable([1.0, 2.0, 3.0, 4.0])
    optimizers.SGD(learning_rate=0.5).apply([np.array([1.0, 6.0, 7.0, 2.0], np.float32)], [x])
    np.testing.assert_allclose(x.numpy(), [0.5, -1.0, -0.5, 3.0], rtol=1e-6)


def test_momentum_keeps_the_learning_rate_inside(family):
    a, b = Variable([1.0, 2.0]), Variable([3.0, 4.0])
    sgd = FAMILIES[family](learning_rate=2.0, momentum=0.9)
    gradients = [(np.full(2, 0.1, np.float32), a), (np.full(2, 0.01, np.float32), b)]
    sgd.apply_gradients(gradients)
    slots = sgd.variables[2:] if family == "keras3" else [sgd.get_slot(v, "momentum") for v in (a, b)]
    np.testing.assert_allclose(slots[0].numpy(), [-0.2, -0.2], rtol=1e-6)
    np.testing.assert_allclose(slots[1].numpy(), [-0.02, -0.02], rtol=1e-6)
    np.testing.assert_allclose(a.numpy(), [0.8, 1.8], rtol=1e-6)
    sgd.apply_gradients(gradients)
    np.testing.assert_allclose(slots[0].numpy(), [-0.38, -0.38], rtol=1e-6)
    np.testing.assert_allclose(b.numpy(), [2.942, 3.942], rtol=1e-6)
    sgd.learning_rate = 0.0
    sgd.apply_gradients(gradients)
    np.testing.assert_allclose(slots[0].numpy(), [-0.342, -0.342], rtol=1e-6)


def test_momentum_doc_values(family):
    x = Variable(1.0)
    sgd = FAMILIES[family](learning_rate=0.1, momentum=0.9)
    deltas = []
    for _ in range(2):
        before = float(x)
        sgd.minimize(lambda: x**2 / 2, [x])
        deltas.append(before - float(x))
    np.testing.assert_allclose(deltas, [0.1, 0.18], rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_ten_dense_steps_equal_the_oracle(family, dtype, options):
    start, rng = np.linspace(-1, 1, 6).reshape(2, 3).astype(dtype), np.random.default_rng(0)
    x, oracle = Variable(start), SGDOracle(start, family, learning_rate=0.05, **options)
    sgd = FAMILIES[family](learning_rate=0.05, **options)
    for _ in range(10):
        g = rng.normal(size=(2, 3)).astype(dtype)
        sgd.apply_gradients([(g, x)])
        oracle.step(g)
    np.testing.assert_allclose(x.numpy().astype(float), oracle.value, rtol=0, atol=TOLERANCE[x.dtype.name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_sparse_steps_equal_the_oracle(family, dtype, options):
    start = np.arange(8.0).reshape(4, 2).astype(dtype) / 8
    x, oracle = Variable(start), SGDOracle(start, family, learning_rate=0.25, **options)
    sgd = FAMILIES[family](learning_rate=0.25, **options)
    for rows in ([3, 1], [1], [], [0, 3]):
        values = np.full((len(rows), 2), 0.5, dtype)
        sgd.apply_gradients([(IndexedSlices(values, np.array(rows, np.int64), (4, 2)), x)])
        oracle.step(dict(zip(rows, values, strict=True)))
    np.testing.assert_allclose(x.numpy().astype(float), oracle.value, rtol=0, atol=TOLERANCE[x.dtype.name])
    assert oracle.value[2, 0] == 0.5, "the third row was never touched"


def test_legacy_momentum_leaves_untouched_rows_alone():
    x = Variable(np.ones((4, 2), np.float32))
    sgd = legacy.SGD(learning_rate=2.0, momentum=0.9)
    for _ in range(2):
        sgd.apply_gradients([(IndexedSlices(np.full((1, 2), 0.1, np.float32), [1], (4, 2)), x)])
    slot = sgd.get_slot(x, "momentum").numpy()
    np.testing.assert_array_equal(slot[[0, 2, 3]], 0)
    np.testing.assert_allclose(slot[1], -0.38, rtol=1e-6)


def test_keras_3_sparse_is_dense_with_zeros_to_the_bit():
    start = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    sparse, dense = Variable(start), Variable(start)
    pair = [optimizers.SGD(learning_rate=0.1, momentum=0.9, nesterov=True) for _ in range(2)]
    for rows in ([0, 4], [2], [4]):
        slices = IndexedSlices(np.ones((len(rows), 3), np.float32), rows, (5, 3))
        pair[0].apply_gradients([(slices, sparse)])
        pair[1].apply_gradients([(slices.to_dense(), dense)])
    np.testing.assert_array_equal(sparse.numpy(), dense.numpy())


def test_repeated_rows_add_up(family):
    x = Variable(np.zeros((3, 1), np.float32))
    FAMILIES[family](learning_rate=1.0).apply_gradients([(IndexedSlices([[1.0], [2.0], [4.0]], [2, 0, 2], (3, 1)), x)])
    np.testing.assert_array_equal(x.numpy(), [[-2], [0], [-5]])


def test_embedding_rows_train_sparsely(family):
    table = Variable(np.ones((4, 2), np.float32))
    sgd = FAMILIES[family](learning_rate=0.5)
    with GradientTape() as tape:
        loss = np.sum(table[np.array([1, 1, 3])])
    (gradient,) = tape.gradient(loss, [table])
    assert isinstance(gradient, IndexedSlices)
    sgd.apply_gradients([(gradient, table)])
    np.testing.assert_array_equal(table.numpy(), [[1, 1], [0, 0], [1, 1], [0.5, 0.5]])


@settings(max_examples=30, deadline=None)
@given(
    family=st.sampled_from(list(FAMILIES)),
    lr=st.floats(1e-3, 2),
    momentum=st.sampled_from([0.0, 0.5, 0.99]),
    nesterov=st.booleans(),
    gradients=st.lists(st.lists(st.floats(-3, 3), min_size=5, max_size=5), min_size=1, max_size=6),
)
def test_any_run_equals_the_oracle(family, lr, momentum, nesterov, gradients):
    x = Variable(np.linspace(-1, 1, 5))
    oracle = SGDOracle(x.numpy(), family, float(np.float32(lr)), float(np.float32(momentum)), nesterov)
    sgd = FAMILIES[family](learning_rate=lr, momentum=momentum, nesterov=nesterov)
    for g in gradients:
        sgd.apply_gradients([(np.array(g), x)])
        oracle.step(np.array(g))
    np.testing.assert_allclose(x.numpy(), oracle.value, rtol=1e-6, atol=1e-6)


def test_momentum_outside_its_range_is_refused(family):
    for momentum in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="momentum"):
            FAMILIES[family](momentum=momentum)


def test_integer_hyperparameters_are_numbers(family):
    x = Variable([1.0])
    FAMILIES[family](learning_rate=1, momentum=0).apply_gradients([([1.0], x)])
    assert float(x[0]) == 0.0
