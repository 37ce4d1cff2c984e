"""Adam and AMSGrad of both families, and NonFusedAdam: formula, golden runs, sparse gradients, dtypes."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_oracle import AdamOracle

from distopt import IndexedSlices, Variable, optimizers
from distopt.optimizers import legacy

CLASSES = {"keras3": optimizers.Adam, "legacy": legacy.Adam, "nonfused": legacy.NonFusedAdam}
TOLERANCE = {"float16": 2e-2, "bfloat16": 3e-2, "float32": 1e-5, "float64": 1e-6}


@pytest.fixture(params=list(CLASSES))
def adam(request):
    return CLASSES[request.param]


@pytest.mark.parametrize("amsgrad", [False, True])
def test_single_step_of_keras_3(adam, amsgrad):
    x = Variable([1.0, 2.0, 3.0, 4.0])
    adam(learning_rate=0.5, amsgrad=amsgrad).apply_gradients([([1.0, 6.0, 7.0, 2.0], x)])
    np.testing.assert_allclose(x.numpy(), [0.5, 1.5, 2.5, 3.5], rtol=1e-5)


def test_golden_run_with_amsgrad(adam):
    x = Variable(np.ones(10, np.float32))
    optimizer = adam(learning_rate=0.001, amsgrad=True)
    golden = [0.999, 0.9982, 0.9974, 0.9965, 0.9955]
    gradients = [np.full(10, 0.01), *[np.arange(0.1, 1.1, 0.1)] * 4]
    for expected, gradient in zip(golden, gradients, strict=True):
        optimizer.apply_gradients([(gradient.astype(np.float32), x)])
        np.testing.assert_allclose(x.numpy(), expected, atol=5e-4)


def test_doc_value(adam):
    x = Variable(10.0)
    adam(learning_rate=0.1).minimize(lambda: x**2 / 2, [x])
    assert abs(float(x) - 9.9) < 1e-5


def test_epsilon_stands_outside_the_root_before_the_bias_correction(adam):
    """With a large epsilon the paper's other form (and the old NonFusedAdam's minus) would differ widely."""
    x, oracle = Variable([1.0]), AdamOracle([1.0], "", learning_rate=0.1, epsilon=1.0)
    optimizer = adam(learning_rate=0.1, epsilon=1.0)
    for g in (0.5, -2.0, 1.0):
        optimizer.apply_gradients([([g], x)])
        oracle.step([g])
    np.testing.assert_allclose(x.numpy(), oracle.value, rtol=1e-6)


def test_nonfused_adam_with_no_second_moment_divides_by_plus_epsilon():
    x = Variable([1.0])
    optimizer = legacy.NonFusedAdam(learning_rate=0.1, epsilon=1.0)
    optimizer.apply_gradients([([1.0], x)])
    assert float(x[0]) < 1.0, "with the old sign the step would go uphill"


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_dense_steps_equal_the_oracle(adam, dtype, amsgrad):
    options = {"beta_2": 0.98, "epsilon": 1e-3}  # which 16 bits can hold
    start, rng = np.linspace(-1, 1, 6).reshape(3, 2).astype(dtype), np.random.default_rng(3)
    x, oracle = Variable(start), AdamOracle(start, "", learning_rate=0.05, amsgrad=amsgrad, **options)
    optimizer = adam(learning_rate=0.05, amsgrad=amsgrad, **options)
    for _ in range(10):
        g = rng.normal(size=(3, 2)).astype(dtype)
        optimizer.apply_gradients([(g, x)])
        oracle.step(g)
    tolerance = TOLERANCE[x.dtype.name] * (4 if dtype == ml_dtypes.bfloat16 else 1)
    np.testing.assert_allclose(x.numpy().astype(float), oracle.value, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_sparse_steps_move_every_row(adam, dtype, amsgrad):
    start = np.arange(8.0).reshape(4, 2).astype(dtype)
    x, oracle = Variable(start), AdamOracle(start, "", learning_rate=0.1, amsgrad=amsgrad)
    optimizer = adam(learning_rate=0.1, amsgrad=amsgrad)
    for rows in ([3, 1], [0], [], [1]):
        values = np.full((len(rows), 2), 0.5, dtype)
        optimizer.apply_gradients([(IndexedSlices(values, np.array(rows, np.int64), (4, 2)), x)])
        oracle.step(dict(zip(rows, values, strict=True)))
    np.testing.assert_allclose(x.numpy(), oracle.value, rtol=TOLERANCE[x.dtype.name])
    assert x.numpy()[3, 0] < 5.9, "a row goes on moving after its gradient"
    assert x.numpy()[2, 0] == 4.0


def test_sparse_is_dense_with_zeros_to_the_bit(adam):
    start = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    sparse, dense = Variable(start), Variable(start)
    pair = [adam(learning_rate=0.1) for _ in range(2)]
    for rows in ([0, 4], [2], [4, 5]):
        slices = IndexedSlices(np.ones((len(rows), 3), np.float32), rows, (6, 3))
        pair[0].apply_gradients([(slices, sparse)])
        pair[1].apply_gradients([(slices.to_dense(), dense)])
    np.testing.assert_array_equal(sparse.numpy(), dense.numpy())


def test_repeated_rows_count_as_their_sum(adam):
    repeated, aggregated = Variable([[1.0], [2.0]]), Variable([[1.0], [2.0]])
    pair = [adam(), adam()]
    for _ in range(3):
        pair[0].apply_gradients([(IndexedSlices([[0.1], [0.1]], [1, 1], (2, 1)), repeated)])
        pair[1].apply_gradients([(IndexedSlices([[0.2]], [1], (2, 1)), aggregated)])
        np.testing.assert_array_equal(repeated.numpy(), aggregated.numpy())


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(list(CLASSES)),
    betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)),
    epsilon=st.sampled_from([1e-7, 1e-3, 1.0]),
    amsgrad=st.booleans(),
    gradients=st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=1, max_size=6),
)
def test_any_run_equals_the_oracle(name, betas, epsilon, amsgrad, gradients):
    x = Variable(np.linspace(-1, 1, 4))
    b1, b2 = betas if name == "keras3" else [float(np.float32(b)) for b in betas]
    oracle = AdamOracle(x.numpy(), "", float(np.float32(0.1)), b1, b2, epsilon, amsgrad)
    optimizer = CLASSES[name](learning_rate=0.1, beta_1=b1, beta_2=b2, epsilon=epsilon, amsgrad=amsgrad)
    for g in gradients:
        optimizer.apply_gradients([(np.array(g), x)])
        oracle.step(np.array(g))
    np.testing.assert_allclose(x.numpy(), oracle.value, rtol=1e-6, atol=1e-6)


def test_sharing_between_optimizers_keeps_state_apart(adam):
    """Upstream's testSharing, and two optimizers over the same variables."""
    a, b = Variable([1.0, 2.0]), Variable([1.0, 2.0])
    first, second, alone = adam(), adam(), adam()
    for _ in range(2):
        first.apply_gradients([([0.1, 0.1], a)])
        second.apply_gradients([([0.1, 0.1], a)])
        for _ in range(2):
            alone.apply_gradients([([0.1, 0.1], b)])
    assert (int(first.iterations), int(second.iterations), int(alone.iterations)) == (2, 2, 4)
    np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-3)


def test_bias_correction_counts_steps_of_the_optimizer_not_of_the_variable():
    """A variable first seen in step 3 gets T = 3 (trap 2)."""
    early, late = Variable([1.0]), Variable([1.0])
    adam = legacy.Adam(learning_rate=0.1)
    for _ in range(2):
        adam.apply_gradients([([1.0], early)])
    adam.apply_gradients([([1.0], early), ([1.0], late)])
    correction = np.sqrt(1 - 0.999**3) / (1 - 0.9**3)
    np.testing.assert_allclose(late.numpy(), 1 - 0.1 * correction * 0.1 / (np.sqrt(0.001) + 1e-7), rtol=1e-5)


def test_hyperparameters_of_the_legacy_family_are_float32():
    """For a float64 variable 0.001 is what float32 makes of it (trap 4)."""
    x = Variable(np.array([1.0]))
    legacy.Adam(epsilon=1e-30, beta_1=0.0, beta_2=0.0).apply_gradients([(np.array([1.0]), x)])
    assert float(x[0]) == 1.0 - float(np.float32(0.001))


def test_a_beta_that_could_not_train_is_refused():
    for name in ("beta_1", "beta_2"):
        with pytest.raises(ValueError, match=name):
            optimizers.Adam(**{name: 1.0})
    x = Variable([1.0], dtype="float16")
    adam = legacy.Adam(beta_2=0.9999)
    with pytest.raises(ValueError, match="beta_2 is 1 in float16"):
        adam.apply_gradients([([1.0], x)])
    assert (int(adam.iterations), float(x[0])) == (0, 1.0)


def test_bfloat16_trains_with_the_usual_betas(adam):
    """0.999 is 1 in bfloat16: the coefficients are wider."""
    x = Variable([1.0], dtype="bfloat16")
    optimizer = adam(learning_rate=0.125)
    for _ in range(2):
        optimizer.apply_gradients([([1.0], x)])
    np.testing.assert_allclose(x.numpy().astype(float), [0.75], atol=0.01)


@pytest.mark.parametrize("epsilon", [None, 0, 0.0])
def test_a_falsy_epsilon_is_the_default_in_the_legacy_family(epsilon):
    assert legacy.Adam(epsilon=epsilon).epsilon == 1e-7
    assert optimizers.Adam(epsilon=0.0).epsilon == 0.0
