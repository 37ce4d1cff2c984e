"""Metrics: local while they count, collective when they are asked for, exact for uneven shares."""

import numpy as np
import pytest

import distopt
from distopt import simulate
from distopt.errors import InvalidArgumentError
from distopt.metrics import Accuracy, Mean, Sum

RNG = np.random.default_rng(0)
LOSSES = RNG.random(7)
SCORES, CLASSES = RNG.random((7, 3)), RNG.integers(0, 3, 7)
SIZES = [(7,), (4, 3), (7, 0), (2, 5, 0, 0), (1, 2, 0, 3, 1)]

uneven = pytest.mark.parametrize("sizes", SIZES)


def share_of(sizes):
    """Return this replica's examples of the seven, as a slice."""
    r = distopt.replica_index()
    return slice(sum(sizes[:r]), sum(sizes[: r + 1]))


@uneven
def test_the_loss_that_people_print_is_a_share(sizes):
    def train():
        total = Sum()
        losses = LOSSES[share_of(sizes)]
        total.update(distopt.losses.compute_average_loss(losses, global_batch_size=7))
        return total.result()

    np.testing.assert_allclose(simulate(len(sizes), train), np.mean(LOSSES), rtol=1e-12)


@uneven
def test_a_mean_is_that_of_all_items(sizes):
    def train():
        mean = Mean()
        losses = LOSSES[share_of(sizes)]
        mean.update(np.sum(losses), items=len(losses))
        for value in losses:
            mean.update(value)
        return mean.result()

    np.testing.assert_allclose(simulate(len(sizes), train), np.mean(LOSSES), rtol=1e-12)


@uneven
@pytest.mark.parametrize("weights", [None, np.arange(7.0)], ids=["plain", "weighted"])
def test_an_accuracy_is_that_of_all_examples(sizes, weights):
    def train():
        accuracy, share = Accuracy(), share_of(sizes)
        accuracy.update(CLASSES[share], SCORES[share], None if weights is None else weights[share])
        return accuracy.result()

    right = np.average(SCORES.argmax(1) == CLASSES, weights=weights)
    np.testing.assert_allclose(simulate(len(sizes), train), right, rtol=1e-12)


def test_a_replica_need_not_count_and_may_begin_again():
    def train():
        total, mean, accuracy = Sum(), Mean(), Accuracy()
        if distopt.replica_index() == 1:
            for _ in range(3):
                total.reset(), mean.reset(), accuracy.reset()
                total.update(2), mean.update(6, items=3), accuracy.update([1, 0], [1, 1])
        return total.result(), mean.result(), accuracy.result()

    assert simulate(3, train) == [(2, 2, 0.5)] * 3


def test_without_items_the_mean_is_that_of_keras():
    assert simulate(2, lambda: (Mean().result(), Accuracy().result(), Sum().result())) == [(0, 0, 0)] * 2


def test_traced_values_are_counted_inside_and_after_the_block():
    w, total = distopt.Variable([1.0, 2.0]), Sum()
    with distopt.GradientTape():
        loss = np.sum(w * w)
        total.update(loss)
    total.update(loss)
    assert total.result() == 10


@pytest.mark.parametrize("value", [[1.0, 2.0], np.ones(2), None, "3", 1j, np.ones(0)], ids=repr)
def test_what_is_no_number_is_refused(value):
    for metric in (Sum(), Mean()):
        with pytest.raises(InvalidArgumentError, match="expected one real number"):
            metric.update(value)
        assert metric.result() == 0


@pytest.mark.parametrize("items", [-1, float("nan"), float("inf"), "2", None])
def test_items_are_a_count(items):
    with pytest.raises(InvalidArgumentError, match="items="):
        Mean().update(1.0, items=items)


def test_a_loss_that_is_nan_shows():
    mean = Mean()
    mean.update(float("nan"))
    assert np.isnan(mean.result())


@pytest.mark.parametrize(
    ("y_true", "y_pred", "weights", "message"),
    [
        ([0, 1], [[0.1], [0.9]], None, "shape"),
        ([[0], [1]], [[0.1, 0.9], [0.9, 0.1]], None, "shape"),
        ([0, 1], [0.1, 0.9], None, "fractions"),
        ([0, 1], [0, 1], [1], "weights"),
        ([0, 1], [0, 1], [1, -1], "weights"),
    ],
)
def test_an_accuracy_refuses_what_it_would_count_wrong(y_true, y_pred, weights, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Accuracy().update(y_true, y_pred, weights)
