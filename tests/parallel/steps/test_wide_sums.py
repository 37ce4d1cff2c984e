"""Sums of many gradients of 16 bits: float32, divided, and rounded once, in every mode."""

import ml_dtypes
import numpy as np
import pytest

import distopt
from distopt import IndexedSlices, Strategy, Variable
from distopt.optimizers import SGD, legacy

RATE = 2.0**-16
SHARED = [
    ("whole", {}),
    ("whole", {"clipvalue": 1e9}),
    ("whole", {"clipnorm": 1e9}),
    ("streamed", {}),
    ("streamed", {"global_clipnorm": 1e9}),
    ("accumulated", {}),
    ("accumulated", {"clipnorm": 1e9}),
]
WAYS = [*SHARED, ("alone", {}), ("transformed", {})]
BIG = 30000
"""Two of them are more than float16 holds."""


def within(update, fn, *args):
    with Strategy(distopt.get_strategy().communicator, update=update).scope():
        return fn(*args)


def numbers(variables):
    return [float(np.unique(v.numpy().astype(np.float64)).item()) for v in variables]


def big_step(way, limits):
    """One step whose sum overflows 16 bits and whose mean does not: in short and long variables."""
    variables = [Variable(np.zeros(n, dtype)) for n in (3, 9000) for dtype in (np.float16, np.float32)]
    steps = 4 if way == "accumulated" else None
    hooks = {"gradient_transformers": [lambda pairs: pairs]} if way == "transformed" else {}
    sgd = SGD(RATE, master_weights=True, gradient_accumulation_steps=steps, **limits, **hooks)
    pairs = [(np.full(v.shape, BIG, v.dtype), v) for v in variables]
    if way == "streamed":
        sgd.begin_step(variables)
        for gradient, variable in pairs:
            sgd.push(variable, gradient)
        sgd.end_step(items=1)
        return numbers(variables)
    for _ in range(steps or 1):
        if way == "alone":
            sgd.apply_gradients(pairs, experimental_aggregate_gradients=False)
        else:
            sgd.apply_gradients(pairs, items=1)
    return numbers(variables)


@pytest.mark.parametrize(("way", "limits"), WAYS, ids=str)
def test_sums_are_divided_before_they_are_rounded(placed, way, limits):
    for values in placed(within, "replicated", big_step, way, limits):
        assert values == [-BIG * RATE] * 4


@pytest.mark.parametrize(("way", "limits"), SHARED, ids=str)
def test_sums_are_divided_before_they_are_rounded_in_shared_mode(placed, way, limits):
    for values in placed(within, "shared", big_step, way, limits):
        assert values == [-BIG * RATE] * 4


def big_rows():
    table = Variable(np.zeros((4, 2), np.float16))
    sgd = SGD(RATE, master_weights=True)
    rows = IndexedSlices(np.full((2, 2), BIG, np.float16), [1, 1], (4, 2))
    sgd.apply_gradients([(rows, table)], items=2)
    return table.numpy()[:, 0].astype(float).tolist()


def test_sums_of_rows_are_divided_before_they_are_rounded(replicas):
    assert replicas(big_rows) == [[0.0, -BIG * RATE, 0.0, 0.0]] * replicas.count


def small_rows():
    table = Variable(np.zeros((2, 1), np.float16))
    sgd = SGD(1.0, master_weights=True)
    rows = IndexedSlices(np.full((2048, 1), 2.0**-20, np.float16), [1] * 2048, (2, 1))
    sgd.apply_gradients([(rows, table)], items=2048)
    return table.numpy()[:, 0].astype(float).tolist()


def test_rows_that_vanish_when_they_are_divided_add_up(replicas):
    assert replicas(small_rows) == [[0.0, -(2.0**-20)]] * replicas.count


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_accumulation_of_16_bits_is_wide(replicas, form):
    def steps():
        v = Variable(np.zeros((3, 1), ml_dtypes.bfloat16))
        sgd = SGD(1.0, gradient_accumulation_steps=512, master_weights=True)
        gradient = np.ones((3, 1), ml_dtypes.bfloat16)
        if form == "sparse":
            gradient = IndexedSlices(gradient, [0, 1, 2], v.shape)
        for _ in range(512):
            sgd.apply_gradients([(gradient, v)], items=1)
        return numbers([v])

    assert replicas(steps) == [[-1.0]] * replicas.count


def test_a_hook_sees_accumulated_gradients_in_16_bits(replicas):
    def total(pairs):
        assert {gradient.dtype for gradient, _ in pairs} == {np.dtype(np.float16)}
        return [(distopt.all_reduce(gradient), variable) for gradient, variable in pairs]

    def steps():
        v = Variable(np.zeros(2, np.float16))
        sgd = SGD(1.0, gradient_accumulation_steps=2, gradient_aggregator=total)
        for _ in range(2):
            sgd.apply_gradients([(np.ones(2, np.float16), v)], items=1)
        return numbers([v])

    assert replicas(steps) == [[-1.0]] * replicas.count


def test_a_loss_scale_is_divided_out_before_rounding(replicas):
    def step():
        v = Variable(np.zeros(2, np.float16))
        sgd = SGD(RATE, master_weights=True, loss_scale_factor=8.0)
        sgd.apply_gradients([(np.full(2, BIG, np.float16), v)])
        return numbers([v])

    assert replicas(step) == [[-float(np.float16(BIG * replicas.count / 8)) * RATE]] * replicas.count


def test_sums_that_nothing_divides_are_as_ever(replicas):
    def step():
        v = Variable(np.zeros(2, np.float16))
        legacy.SGD(1.0).apply_gradients([(np.full(2, 0.1, np.float16), v)])
        return numbers([v])

    wanted = -np.float16(np.float32(np.float16(0.1)) * replicas.count)
    np.testing.assert_allclose(replicas(step), [[wanted]] * replicas.count, rtol=1e-3)


@pytest.mark.parametrize("limits", [{}, {"clipvalue": 1e9}, {"global_clipnorm": 1e9}], ids=str)
@pytest.mark.parametrize("make", [SGD, legacy.SGD])
def test_rows_are_added_before_they_are_rounded(replicas, make, limits):
    """Eleven elevenths in float16 are 0.9995, if each is rounded."""

    def step():
        table = Variable(np.zeros((3, 1), np.float16))
        rows = IndexedSlices(np.ones((11, 1), np.float16), [1] * 11, (3, 1))
        make(1.0, **limits).apply_gradients([(rows, table)], items=11)
        return table.numpy().ravel().tolist()

    assert replicas(step) == [[0, -1, 0]] * replicas.count
