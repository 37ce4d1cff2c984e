"""Losses beside the cross-entropies against their formulas; arguments, names and dictionaries of Keras."""

import numpy as np
import pytest

from distopt import GradientTape, Variable, losses, simulate
from distopt.errors import InvalidArgumentError
from distopt.losses import Reduction

T = np.array([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
P = np.array([[0.1, 0.7, 0.2], [0.3, 0.3, 0.4]])
E = P - T
SIGNED = np.where(T > 0.4, 1.0, -1.0)

FORMULAS = {
    "MeanAbsoluteError": np.abs(E).mean(-1),
    "MeanAbsolutePercentageError": 100 * (np.abs(E) / np.maximum(np.abs(T), 1e-7)).mean(-1),
    "MeanSquaredLogarithmicError": ((np.log1p(np.maximum(P, 1e-7)) - np.log1p(np.maximum(T, 1e-7))) ** 2).mean(-1),
    "Huber": np.where(np.abs(E) > 1, np.abs(E) - 0.5, E**2 / 2).mean(-1),
    "LogCosh": np.log(np.cosh(E)).mean(-1),
    "KLDivergence": (np.clip(T, 1e-7, 1) * np.log(np.clip(T, 1e-7, 1) / P)).sum(-1),
    "Poisson": (P - T * np.log(P + 1e-7)).mean(-1),
    "CosineSimilarity": -(T * P).sum(-1) / np.linalg.norm(T, axis=-1) / np.linalg.norm(P, axis=-1),
    "CategoricalHinge": np.maximum(((1 - T) * P).max(-1) - (T * P).sum(-1) + 1, 0),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_losses_per_example(name):
    loss = getattr(losses, name)
    np.testing.assert_allclose(loss(reduction=None)(T, P), FORMULAS[name], rtol=1e-12)
    np.testing.assert_allclose(loss()(T, P), FORMULAS[name].mean(), rtol=1e-12)
    assert loss(dtype="float32")(T, P).dtype == np.float32
    w = Variable(P)
    with GradientTape() as tape:
        value = loss()(T, w)
    assert tape.gradient(value, w).shape == P.shape


def test_hinges_take_labels_of_both_kinds():
    expected = np.maximum(1 - SIGNED * P, 0)
    for labels in (SIGNED, (SIGNED + 1) / 2):
        np.testing.assert_allclose(losses.hinge(labels, P), expected.mean(-1))
        np.testing.assert_allclose(losses.SquaredHinge("none")(labels, P), (expected**2).mean(-1))


def test_the_ends_of_huber_and_log_cosh():
    np.testing.assert_allclose(losses.Huber(delta=2.0)(np.zeros((1, 2)), np.array([[1.0, 5.0]])), (0.5 + 8) / 2)
    np.testing.assert_allclose(losses.log_cosh([0.0, 0.0], [1000.0, -1000.0]), 1000 - np.log(2))
    np.testing.assert_array_equal(losses.cosine_similarity([[0.0, 0.0]], [[1.0, 2.0]]), [0])


def test_label_smoothing_and_axes():
    labels, s = np.array([[0.0, 1.0, 1.0]]), 0.2
    z = np.array([[0.3, -0.2, 2.0]])
    smooth = losses.BinaryCrossentropy(True, label_smoothing=s)(labels, z)
    np.testing.assert_allclose(smooth, losses.BinaryCrossentropy(True)(labels * (1 - s) + s / 2, z))
    smooth = losses.CategoricalCrossentropy(True, s)(labels / 2, z)
    np.testing.assert_allclose(smooth, losses.CategoricalCrossentropy(True)(labels / 2 * (1 - s) + s / 3, z))
    two = np.stack([z, 2 * z]), np.stack([labels / 2, labels[:, ::-1] / 2])
    by_rows = losses.categorical_crossentropy(two[1], two[0], True)
    by_columns = losses.categorical_crossentropy(np.swapaxes(two[1], 1, 2), np.swapaxes(two[0], 1, 2), True, axis=1)
    np.testing.assert_allclose(by_columns, by_rows)
    sparse = losses.sparse_categorical_crossentropy([[0], [2]], two[0], True)
    by_columns = losses.sparse_categorical_crossentropy([[0], [2]], np.swapaxes(two[0], 1, 2), True, axis=1)
    np.testing.assert_allclose(by_columns, sparse)
    mean = losses.binary_crossentropy(np.swapaxes(two[1], 1, 2), np.swapaxes(two[0], 1, 2), True, axis=1)
    np.testing.assert_allclose(mean, losses.binary_crossentropy(two[1], two[0], True))


@pytest.mark.parametrize("ignored", [-1, 255])
def test_a_class_that_does_not_count(ignored):
    z = np.array([[0.3, -0.2], [0.1, 2.0], [1.0, 1.0]])
    labels = np.array([1, ignored, 0])
    counted = losses.sparse_categorical_crossentropy(labels[[0, 2]], z[[0, 2]], True)
    each = losses.sparse_categorical_crossentropy(labels, z, True, ignored)
    np.testing.assert_allclose(each, [counted[0], 0, counted[1]])
    np.testing.assert_allclose(losses.SparseCategoricalCrossentropy(True, ignored)(labels, z), counted.mean())
    np.testing.assert_allclose(losses.SparseCategoricalCrossentropy(True, ignored, "sum")(labels, z), counted.sum())

    def mean():
        losses.SparseCategoricalCrossentropy(True, ignored)(labels, z)

    with pytest.raises(InvalidArgumentError, match=r"divides by the number of losses that count of all.*items="):
        simulate(2, mean)


def test_reductions_of_keras():
    loss, weights = losses.MeanAbsoluteError, np.array([1.0, 3.0])
    each = FORMULAS["MeanAbsoluteError"]
    assert loss(reduction=None).reduction is Reduction.NONE
    assert loss(reduction="mean").reduction is Reduction.SUM_OVER_BATCH_SIZE
    np.testing.assert_allclose(loss("mean_with_sample_weight")(T, P), each.mean())
    np.testing.assert_allclose(loss("mean_with_sample_weight")(T, P, weights), (each * weights).sum() / 4)
    assert loss("mean_with_sample_weight")(T, P, np.zeros(2)) == 0
    with pytest.raises(InvalidArgumentError, match=r"divides by the sum of the weights of all replicas"):
        simulate(2, lambda: loss("mean_with_sample_weight")(T, P, weights))


def test_names_and_dictionaries():
    for alias in ("mse", "MSE", "mae", "MAPE", "kld", "logcosh", "bce", "hinge", "kullback_leibler_divergence"):
        assert callable(losses.get(alias))
        assert losses.get(alias) is getattr(losses, alias)
    for name in losses.__all__:
        cls = getattr(losses, name)
        if isinstance(cls, type) and issubclass(cls, losses.Loss) and cls is not losses.Loss:
            loss = losses.get(name)
            twin = losses.deserialize(losses.serialize(loss))
            assert type(twin) is cls
            assert twin.get_config() == loss.get_config()
    config = losses.Huber(3.0, "sum", dtype="float32").get_config()
    assert config == {"name": "huber_loss", "reduction": "sum", "dtype": "float32", "delta": 3.0}
    assert losses.deserialize(losses.serialize(losses.mean_squared_error)) is losses.mean_squared_error
    assert losses.get(None) is None
    with pytest.raises(InvalidArgumentError, match=r"Unknown loss 'MeanSquareError'.*Did you mean 'MeanSquaredError'"):
        losses.get("MeanSquareError")
