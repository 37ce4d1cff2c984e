import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.losses.loss_cases import BITS, CLASSES, LABELS, LOGITS, ONE_HOT, RNG, WEIGHTS, N, every_loss, softmax
from unit.on_replicas import raised_everywhere

import distopt
from distopt import simulate
from distopt.data import batches, join
from distopt.losses import (
    BinaryCrossentropy,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
    compute_average_loss,
    scale_regularization_loss,
)
from distopt.process.replica import current_replica


def splits(sizes):
    """Cuts the seven examples into one slice per replica."""
    ends = np.cumsum(sizes)
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


SIZES = [(7,), (4, 3), (3, 1, 3), (7, 0), (0, 7), (2, 5, 0, 0), (1, 2, 0, 3, 1)]


@every_loss
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("reduction", ["sum", "sum_over_batch_size"])
def test_the_parts_add_up_to_the_loss_of_one_process(case, sizes, weights, reduction):
    cls, options, y_true, y_pred = case
    loss = cls(reduction=reduction, **options)

    def part():
        share = splits(sizes)[distopt.replica_index()]
        return loss(y_true[share], y_pred[share], None if weights is None else weights[share], global_batch_size=N)

    np.testing.assert_allclose(sum(simulate(len(sizes), part)), loss(y_true, y_pred, weights), rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [3, 7])
def test_the_batch_of_distopt_data_gives_the_count(count, size):
    loss = SparseCategoricalCrossentropy(from_logits=True)

    def train():
        return [loss(y, z) for y, z in (b.arrays for b in batches((LABELS, LOGITS), global_batch_size=size, seed=1))]

    np.testing.assert_allclose(np.sum(simulate(count, train), axis=0), train(), rtol=1e-12)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_joined_batches_give_the_count(counts):
    def train():
        mine = np.full(counts[distopt.replica_index()], 2.0, np.float32)
        return [compute_average_loss(item, sample_weight=3) for item in join([mine])]

    total = np.sum(simulate(len(counts), train))
    assert total == pytest.approx(6 if sum(counts) else 0, rel=1e-6)


def test_an_unknown_count_is_an_error_with_the_cure():
    for body in (lambda: MeanSquaredError()([1.0], [2.0]), lambda: compute_average_loss([1.0])):
        message = raised_everywhere(2, body)[0]
        assert "with 2 replicas the size of the global batch must be known" in message
        assert "distopt.data.batches(...)" in message
        assert "global_batch_size=" in message
    simulate(2, lambda: MeanSquaredError("sum")([1.0], [2.0]))


def test_other_examples_than_those_of_the_batch_are_an_error():
    def body():
        for _ in batches(LOGITS, global_batch_size=7):
            MeanSquaredError()(np.zeros(5), np.ones(5))

    assert "5 examples, while this replica holds 4 of the 7 in the current batch" in raised_everywhere(2, body)[0]


def test_compute_average_loss_divides_by_examples_only():
    losses = RNG.uniform(size=(3, 4))
    np.testing.assert_allclose(compute_average_loss(losses), losses.sum() / 3)
    np.testing.assert_allclose(compute_average_loss(losses, global_batch_size=6), losses.sum() / 6)
    np.testing.assert_allclose(
        compute_average_loss(losses, np.array([1, 0, 0]), global_batch_size=6), losses[0].sum() / 6
    )
    assert compute_average_loss(np.zeros((0, 4)), global_batch_size=0) == 0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_regularization_counts_once(count):
    def term():
        return scale_regularization_loss(np.array([0.5, 1.0], np.float32))

    parts = simulate(count, term)
    assert {part.dtype for part in parts} == {np.dtype(np.float32)}
    assert sum(parts) == pytest.approx(1.5, rel=1e-6)


@every_loss
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_add_up_to_those_of_one_process(case, dtype, sizes):
    cls, options, y_true, y_pred = case
    loss = cls(**options)

    def gradient(share):
        z = distopt.Variable(y_pred.astype(dtype))
        with distopt.GradientTape() as tape:
            value = loss(y_true[share], z[share] * 1, WEIGHTS[share], global_batch_size=N)
        return tape.gradient(value, z)

    parts = simulate(len(sizes), lambda: gradient(splits(sizes)[distopt.replica_index()]))
    whole = gradient(slice(None))
    assert whole.dtype == dtype
    assert np.any(whole)
    np.testing.assert_allclose(sum(parts), whole, rtol=50 * np.finfo(dtype).eps, atol=np.finfo(dtype).eps)


@every_loss
def test_gradients_are_those_of_finite_differences(case):
    cls, options, y_true, y_pred = case
    loss = cls(**options)
    z = distopt.Variable(y_pred)
    with distopt.GradientTape() as tape:
        value = loss(y_true, z, WEIGHTS)
    gradient = tape.gradient(value, z)
    for place in [(0, 0), (3, 2), (6, 3)]:
        up, down = y_pred.copy(), y_pred.copy()
        up[place] += 1e-6
        down[place] -= 1e-6
        slope = (loss(y_true, up, WEIGHTS) - loss(y_true, down, WEIGHTS)) / 2e-6
        assert gradient[place] == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_probabilities_have_gradients_too():
    p = distopt.Variable(softmax(LOGITS))
    with distopt.GradientTape(persistent=True) as tape:
        binary = BinaryCrossentropy(reduction="sum")(BITS, p)
        sparse = SparseCategoricalCrossentropy(reduction="sum")(LABELS, p)
    probabilities = p.numpy()
    expected = (probabilities - BITS) / (probabilities * (1 - probabilities)) / CLASSES
    np.testing.assert_allclose(tape.gradient(binary, p), expected, rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(sparse, p), 1 - ONE_HOT / probabilities, rtol=1e-6, atol=1e-6)


def test_a_traced_average_is_remembered_by_name():
    y = distopt.Variable(np.ones(3))
    replica = current_replica()
    for call, name in [
        (lambda: MeanSquaredError()(np.zeros(3), y), "mean_squared_error"),
        (lambda: MeanSquaredError(name="mine")(np.zeros(3), y), "mine"),
        (lambda: compute_average_loss(y * 2), "compute_average_loss"),
        (lambda: MeanSquaredError("sum")(np.zeros(3), y), None),
        (lambda: scale_regularization_loss(y * 2), None),
    ]:
        replica.of_thread.averaged_loss = None
        call()
        assert replica.of_thread.averaged_loss is None  # no tape is open
        with distopt.GradientTape():
            call()
        assert replica.of_thread.averaged_loss == name
    replica.of_thread.averaged_loss = None
