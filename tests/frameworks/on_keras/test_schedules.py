"""Schedules beside those of Keras 3, to the rounding of float32, in which Keras computes them."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # read once, by the first import of keras in a process

import math

import keras
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import distopt

OURS, KERAS = distopt.optimizers.schedules, keras.optimizers.schedules

rates = st.floats(2**-10, 1, width=32)
counts = st.integers(1, 500)
fractions = st.floats(0, 1, width=32)
steps = st.integers(0, 2000)

CASES = {
    "ExponentialDecay": st.tuples(rates, counts, fractions, st.booleans()),
    "InverseTimeDecay": st.tuples(rates, counts, st.floats(0, 8, width=32), st.booleans()),
    "PolynomialDecay": st.tuples(rates, counts, fractions, st.sampled_from([0.5, 1, 2, 3]), st.booleans()),
    "CosineDecay": st.tuples(rates, counts, fractions, st.just("c"), st.none() | rates, st.integers(0, 50)),
    "PiecewiseConstantDecay": st.lists(st.tuples(steps, rates), min_size=1, max_size=4).map(
        lambda pieces: (sorted(step for step, _ in pieces), [0.5, *(rate for _, rate in pieces)])
    ),
    "CosineDecayRestarts": st.tuples(rates, counts, st.sampled_from([1.0, 1.5, 2.0, 3.0]), fractions, fractions),
}
"""By class, arguments as they are in Keras."""

# Each: what is made, Keras's answer, ours (a value or the words of an error), and why ours is another.
INTENDED = [
    (
        lambda library: library.PiecewiseConstantDecay([5, 2], [0.4, 0.5, 0.6])(3),
        1.0,
        "must be in order",
        "boundaries out of order are a mistake, and sums of rates are nobody's wish",
    ),
    (
        lambda library: library.CosineDecayRestarts(1.0, 8, t_mul=0.5, alpha=0.25)(17),
        math.nan,
        0.25,
        "after the last of ever shorter periods the rate stays at its least",
    ),
    (
        lambda library: library.CosineDecayRestarts(1.0, 10)(81910),
        0.0,
        1.0,
        "a logarithm in float32 misses the restart; here it is found exactly",
    ),
    (
        lambda library: library.CosineDecay(1.0, 10, warmup_target=0.5, warmup_steps=-5)(0),
        0.25,
        "must be at least 0",
        "no schedule begins before its beginning",
    ),
]


def both(name, arguments):
    return getattr(OURS, name)(*arguments), getattr(KERAS, name)(*arguments)


@pytest.mark.parametrize("name", CASES)
@given(st.data())
@settings(max_examples=8)
def test_rates_are_those_of_keras(name, data):
    ours, theirs = both(name, data.draw(CASES[name]))
    for step in data.draw(st.lists(steps, min_size=1, max_size=3)):
        if name == "CosineDecayRestarts":
            _, fraction = ours._period(step)
            assume(1e-3 < fraction < 1 - 1e-3)  # at a restart Keras may be a step late
        assert float(ours(step)) == pytest.approx(float(theirs(step)), rel=2e-5, abs=2e-6), step


@pytest.mark.parametrize(("make", "keras_answer", "our_answer", "reason"), INTENDED, ids=[row[-1] for row in INTENDED])
def test_where_ours_is_another(make, keras_answer, our_answer, reason):
    assert float(make(KERAS)) == pytest.approx(keras_answer, abs=1e-3, nan_ok=True)
    if isinstance(our_answer, str):
        with pytest.raises(ValueError, match=our_answer):
            make(OURS)
    else:
        assert float(make(OURS)) == our_answer


@pytest.mark.parametrize("name", CASES)
@given(st.data())
@settings(max_examples=2)
def test_dictionaries_go_both_ways(name, data):
    ours, theirs = both(name, data.draw(CASES[name]))
    assert OURS.deserialize(KERAS.serialize(theirs)).get_config() == ours.get_config()
    again = KERAS.deserialize({**OURS.serialize(ours), "module": "keras.optimizers.schedules"})
    assert again.get_config() == theirs.get_config()
