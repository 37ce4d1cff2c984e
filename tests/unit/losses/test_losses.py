import ml_dtypes
import numpy as np
import pytest
from unit.losses.loss_cases import BITS, CASES, LABELS, LOGITS, ONE_HOT, RNG, WEIGHTS, N, every_loss, softmax

from distopt import GradientTape, Variable
from distopt.errors import InvalidArgumentError
from distopt.losses import (
    CategoricalCrossentropy,
    Loss,
    MeanSquaredError,
    Reduction,
    SparseCategoricalCrossentropy,
    binary_crossentropy,
    categorical_crossentropy,
    compute_average_loss,
    mean_squared_error,
    sparse_categorical_crossentropy,
)

FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def expected_losses():
    true_class = -np.log(softmax(LOGITS)[np.arange(N), LABELS])
    p = sigmoid(LOGITS)
    return {
        "mse": np.mean((LOGITS - ONE_HOT) ** 2, axis=1),
        "binary": np.mean(-np.log(np.where(BITS == 1, p, 1 - p)), axis=1),
        "categorical": true_class,
        "sparse": true_class,
    }


@pytest.mark.parametrize("name", CASES)
def test_losses_per_example(name):
    cls, options, y_true, y_pred = CASES[name]
    losses = cls(reduction="none", **options)(y_true, y_pred)
    np.testing.assert_allclose(losses, expected_losses()[name], rtol=1e-12)


@every_loss
def test_reductions(case):
    cls, options, y_true, y_pred = case
    losses = cls(reduction=Reduction.NONE, **options)(y_true, y_pred)
    assert losses.shape == (N,)
    np.testing.assert_allclose(cls(reduction="sum", **options)(y_true, y_pred), losses.sum(), rtol=1e-12)
    for reduction in (Reduction.AUTO, Reduction.SUM_OVER_BATCH_SIZE):
        mean = cls(reduction=reduction, **options)(y_true, y_pred)
        np.testing.assert_allclose(mean, losses.mean(), rtol=1e-12)
    assert cls(**options).reduction is Reduction.AUTO
    weighted = cls(**options)(y_true, y_pred, WEIGHTS)
    np.testing.assert_allclose(weighted, (losses * WEIGHTS).sum() / N, rtol=1e-12)


@every_loss
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reduction", Reduction)
def test_the_result_has_the_dtype_of_the_predictions(case, dtype, reduction):
    cls, options, y_true, y_pred = case
    predictions = y_pred.astype(dtype)
    result = cls(reduction=reduction, **options)(y_true, predictions, WEIGHTS.astype(np.float64))
    assert result.dtype == dtype
    exact = cls(reduction=reduction, **options)(y_true, predictions.astype(np.float64), WEIGHTS)
    unit = float(np.finfo(dtype).eps) if dtype is not ml_dtypes.bfloat16 else 2**-7
    np.testing.assert_allclose(np.asarray(result, np.float64), exact, rtol=4 * unit)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sums_of_16_bit_losses_are_formed_in_float32(dtype):
    y = np.zeros(5000, dtype)
    mean = MeanSquaredError()(y, np.ones(5000, dtype))
    assert float(mean) == 1.0


def test_integer_predictions_become_float32():
    assert MeanSquaredError()(np.array([1, 2]), np.array([2, 4])) == np.float32(2.5)
    assert MeanSquaredError()([1.0, 2.0], [2.0, 4.0]).dtype == np.float32


def test_elements_per_example_count_in_the_mean():
    y = RNG.normal(size=(3, 5, 2))
    zeros = np.zeros_like(y)
    np.testing.assert_allclose(MeanSquaredError()(zeros, y), np.mean(y**2))
    np.testing.assert_allclose(MeanSquaredError()(zeros, y, global_batch_size=6), np.mean(y**2) / 2)
    np.testing.assert_allclose(MeanSquaredError("sum")(zeros, y), np.mean(y**2) * 15)


def test_one_number_per_example_is_not_averaged_over_examples():
    np.testing.assert_array_equal(mean_squared_error(np.zeros(3), np.arange(3.0)), [0, 1, 4])
    assert binary_crossentropy(np.zeros(3), np.zeros(3), from_logits=True).shape == (3,)


@every_loss
def test_an_empty_batch_gives_zero(case):
    cls, options, y_true, y_pred = case
    for reduction in ("sum", "auto"):
        assert cls(reduction=reduction, **options)(y_true[:0], y_pred[:0].astype(np.float32)) == 0
    assert cls(**options)(y_true[:0], y_pred[:0], WEIGHTS[:0], global_batch_size=7) == 0
    assert cls(reduction="none", **options)(y_true[:0], y_pred[:0]).shape == (0,)


@pytest.mark.parametrize("size", [30.0, 1000.0, 1e30])
def test_large_logits_neither_overflow_nor_lose_the_loss(size):
    z = np.array([[size, -size]], np.float32)
    np.testing.assert_allclose(
        sparse_categorical_crossentropy([0], z, from_logits=True), [np.log1p(np.exp(-2 * size))], atol=1e-20
    )
    np.testing.assert_allclose(sparse_categorical_crossentropy([1], z, from_logits=True), [2 * size], rtol=1e-6)
    np.testing.assert_allclose(categorical_crossentropy([[0, 1]], z, from_logits=True), [2 * size], rtol=1e-6)
    np.testing.assert_allclose(binary_crossentropy([[0, 1]], z, from_logits=True), [size], rtol=1e-6)


def test_probabilities_agree_with_logits():
    p = softmax(LOGITS)
    for from_p, from_z in [
        (sparse_categorical_crossentropy(LABELS, p), sparse_categorical_crossentropy(LABELS, LOGITS, True)),
        (categorical_crossentropy(ONE_HOT, 5 * p), categorical_crossentropy(ONE_HOT, LOGITS, True)),
        (binary_crossentropy(BITS, sigmoid(LOGITS)), binary_crossentropy(BITS, LOGITS, True)),
    ]:
        np.testing.assert_allclose(from_p, from_z, rtol=1e-4)


def test_impossible_probabilities_are_clipped():
    np.testing.assert_allclose(sparse_categorical_crossentropy([0], [[0.0, 1.0]]), [-np.log(1e-7)], rtol=1e-6)
    np.testing.assert_allclose(binary_crossentropy([1.0], [0.0]), [-np.log(1e-7)], rtol=1e-6)
    for dtype in FLOATS:
        losses = binary_crossentropy(np.array([0, 1]), np.array([1, 0], dtype))
        np.testing.assert_allclose(losses.astype(np.float64), -np.log(1e-7), rtol=0.02)


def test_sparse_labels_may_have_a_last_axis_of_one():
    np.testing.assert_array_equal(
        sparse_categorical_crossentropy(LABELS[:, None], LOGITS, True),
        sparse_categorical_crossentropy(LABELS, LOGITS, True),
    )


@pytest.mark.parametrize(
    ("weights", "factor"),
    [
        (2, np.full((2, 3), 2)),
        (np.float64(0.5), np.full((2, 3), 0.5)),
        (np.array([1, 2]), np.array([[1], [2]])),
        (np.array([[1], [2]]), np.array([[1], [2]])),
        (np.arange(6).reshape(2, 3), np.arange(6).reshape(2, 3)),
        (np.arange(6).reshape(2, 3, 1), np.arange(6).reshape(2, 3)),
    ],
)
def test_weights_gain_or_lose_one_trailing_axis(weights, factor):
    y = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    result = MeanSquaredError("none")(np.zeros_like(y), y, weights)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.mean(y**2, axis=-1) * factor, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 2), (2, 3, 4), (1,), (2, 3, 1, 1)])
def test_weights_that_do_not_fit(shape):
    y = np.zeros((2, 3, 4))
    with pytest.raises(InvalidArgumentError, match=r"sample_weight of shape .* does not fit losses of shape \(2, 3\)"):
        MeanSquaredError()(y, y, np.ones(shape))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: mean_squared_error(np.ones(3), np.ones((3, 1))),
            r"y_true has shape \(3,\) and y_pred \(3, 1\)",
        ),
        (lambda: mean_squared_error(np.ones((1, 3)), np.ones((2, 3))), "nothing is broadcast"),
        (lambda: mean_squared_error(1.0, 2.0), "y_pred is a scalar"),
        (lambda: binary_crossentropy([0, 1], [[0.5], [0.5]]), "they must be the same"),
        (lambda: binary_crossentropy([-1, 1], [0.5, 0.5]), "Labels are 0 and 1, not -1 and 1"),
        (lambda: binary_crossentropy([0, 1], [-3.0, 2.0]), "Logits need from_logits=True"),
        (lambda: categorical_crossentropy(ONE_HOT, LOGITS), "Logits need from_logits=True"),
        (
            lambda: categorical_crossentropy(LABELS, LOGITS, True),
            r"y_true has shape \(7,\) and y_pred \(7, 4\)",
        ),
        (lambda: categorical_crossentropy([0, 1], [0.5, 0.5]), "classes on the last"),
        (lambda: sparse_categorical_crossentropy(ONE_HOT, LOGITS), "One-hot rows go with CategoricalCross"),
        (lambda: sparse_categorical_crossentropy(LABELS + 0.0, LOGITS), "y_true has dtype float64"),
        (lambda: sparse_categorical_crossentropy(LABELS - 1, LOGITS, True), "there are 4 classes, 0 to 3"),
        (lambda: sparse_categorical_crossentropy(LABELS + 1, LOGITS, True), "labels from 1 to 4"),
        (lambda: MeanSquaredError("means"), "Invalid Reduction Key: 'means'. Expected one of auto, none, sum"),
        (lambda: MeanSquaredError("summ"), "Did you mean 'sum'"),
        (
            lambda: MeanSquaredError()(np.ones(3), np.ones(3), global_batch_size=2),
            "not below the 3 of this one",
        ),
        (lambda: MeanSquaredError()(np.ones(3), np.ones(3), global_batch_size=4.0), "received 4.0"),
        (lambda: MeanSquaredError()(["a"], [1.0]), "y_true has dtype <U1"),
        (lambda: compute_average_loss(2.0), "the losses are a single number"),
        (lambda: compute_average_loss(np.ones(3), global_batch_size=-1), "received -1"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()


class AlreadyReduced(Loss):
    def call(self, y_true, y_pred):
        return np.mean(np.abs(y_pred - y_true))


def test_a_loss_that_is_one_number_can_not_be_averaged():
    with pytest.raises(InvalidArgumentError, match=r"AlreadyReduced: the losses are a single number"):
        AlreadyReduced()(np.ones(3), np.zeros(3))
    assert AlreadyReduced("sum")(np.ones(3), np.zeros(3)) == 1
    with pytest.raises(NotImplementedError, match="Loss is a Loss without call"):
        Loss()(np.ones(3), np.zeros(3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_categorical_crossentropy_with_a_logit_of_minus_infinity_at_a_label_of_zero(dtype):
    v = Variable(np.array([[0.0, -np.inf, 1.0]], dtype))
    with GradientTape() as tape:
        loss = CategoricalCrossentropy(from_logits=True)(np.array([[1, 0, 0]]), v)
    np.testing.assert_allclose(float(loss), np.log(1 + np.e), rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(loss, v), [[1 / (1 + np.e) - 1, 0, 1 / (1 + 1 / np.e)]], rtol=1e-6)
    assert loss.dtype == dtype
    assert SparseCategoricalCrossentropy(from_logits=True)(np.array([0]), v) == loss


@pytest.mark.parametrize(
    ("label", "logit", "expected"), [(0, -np.inf, 0), (1, np.inf, 0), (0, np.inf, np.inf), (1, -np.inf, np.inf)]
)
def test_binary_crossentropy_of_infinite_logits(label, logit, expected):
    v = Variable([logit, 0.0])
    with GradientTape() as tape:
        losses = binary_crossentropy(np.array([label, 1]), v, from_logits=True)
    np.testing.assert_allclose(losses.numpy(), [expected, np.log(2)], rtol=1e-6)
    if expected == 0:
        np.testing.assert_array_equal(tape.gradient(losses, v), [0, -0.5])
