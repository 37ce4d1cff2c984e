import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from distopt import constraints
from distopt.constraints import Constraint, MaxNorm, MinMaxNorm, NonNeg, RadialConstraint, UnitNorm
from distopt.errors import InvalidArgumentError

ALL = [NonNeg(), MaxNorm(1.5, axis=1), MinMaxNorm(0.5, 2.0, rate=0.5, axis=(0, 1)), UnitNorm()]

matrices = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(-10, 10))


def norms(value, axis=0):
    return np.sqrt(np.sum(value**2, axis=axis))


@given(matrices)
def test_max_norm_shrinks_long_vectors_only(value):
    result = MaxNorm(2.0)(value)
    assert np.all(norms(result) <= 2)
    short = norms(value) <= 2
    np.testing.assert_allclose(result[:, short], value[:, short], rtol=0, atol=1e-7)
    long = norms(value) > 2
    np.testing.assert_allclose(norms(result)[long], 2, rtol=1e-6)


@given(matrices)
def test_unit_norm_gives_length_one(value):
    lengths = norms(value)
    np.testing.assert_allclose(norms(UnitNorm()(value)), lengths / (lengths + 1e-7), rtol=1e-9, atol=1e-12)


@given(matrices, st.floats(0, 1))
def test_min_max_norm_goes_part_of_the_way(value, rate):
    lengths = norms(value)
    desired = rate * np.clip(lengths, 0.5, 2.0) + (1 - rate) * lengths
    result = MinMaxNorm(0.5, 2.0, rate)(value)
    np.testing.assert_allclose(norms(result), lengths * desired / (lengths + 1e-7), rtol=1e-9, atol=1e-12)


def test_non_neg():
    np.testing.assert_array_equal(NonNeg()([-np.inf, -1.0, 0.0, 2.0]), [0, 0, 0, 2])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [[0]]),
        (2, [[0, 0], [0, 0]]),
        (3, [[8, 8, 8], [8, 4, 8], [8, 8, 8]]),
        (4, [[15, 15, 15, 15], [15, 5, 5, 15], [15, 5, 5, 15], [15, 15, 15, 15]]),
    ],
)
def test_radial_constraint_gives_each_ring_one_value(size, expected):
    kernels = np.arange(size * size, dtype=np.float32)[:, None] + np.array([0, 100, 200, 300, 400, 500])
    kernels = kernels.reshape(size, size, 2, 3)
    result = RadialConstraint()(kernels)
    assert result.dtype == kernels.dtype
    np.testing.assert_array_equal(
        result - kernels[:1, :1], np.broadcast_to(np.reshape(expected, (size, size, 1, 1)), kernels.shape)
    )
    np.testing.assert_array_equal(RadialConstraint()(result), result, "it is where it may be")


def test_axis_says_which_way_vectors_run():
    value = np.array([[3.0, 4.0], [6.0, 8.0]])
    np.testing.assert_allclose(UnitNorm(axis=1)(value), [[0.6, 0.8], [0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(norms(UnitNorm(axis=(0, 1))(value), axis=None), 1, rtol=1e-6)


@pytest.mark.parametrize("constraint", ALL)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_dtype_and_shape_stay_and_the_value_is_not_mutated(constraint, dtype):
    value = np.array([[300.0, -4.0], [0.5, 400.0]], dtype)  # squares above the range of float16
    before = value.copy()
    result = constraint(value)
    assert result.dtype == value.dtype
    assert result.shape == value.shape
    assert np.all(np.isfinite(result.astype(np.float64)))
    np.testing.assert_array_equal(value, before)
    np.testing.assert_allclose(result.astype(np.float64), constraint(value.astype(np.float64)), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("constraint", [MaxNorm(), MinMaxNorm(1.0, 2.0), UnitNorm()])
def test_a_vector_of_zeros_stays_one(constraint):
    np.testing.assert_array_equal(constraint(np.zeros(3)), np.zeros(3))


@pytest.mark.parametrize("constraint", ALL)
def test_a_constraint_survives_json(constraint):
    again = type(constraint).from_config(json.loads(json.dumps(constraint.get_config())))
    value = np.array([[3.0, -4.0], [0.5, 2.0]])
    np.testing.assert_array_equal(again(value), constraint(value))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxNorm(-1), "MaxNorm: max_value must be a finite number >= 0, received -1"),
        (lambda: MaxNorm(float("nan")), "max_value must be a finite number"),
        (lambda: MaxNorm("2"), "MaxNorm: max_value must be a finite number >= 0, received '2'"),
        (lambda: MaxNorm(True), "max_value must be a finite number"),
        (lambda: MinMaxNorm(2, 1), "min_value must not exceed max_value, received 2 and 1"),
        (lambda: MinMaxNorm(rate=1.5), "rate must be from 0 to 1, received 1.5"),
        (lambda: UnitNorm(axis=1)(np.ones(3)), r"UnitNorm\(axis=1\): a value of shape \(3,\)"),
        (lambda: RadialConstraint()(np.ones((3, 2, 1, 1))), r"shape \(3, 2, 1, 1\): expected \(size, size, inputs"),
        (lambda: RadialConstraint()(np.ones((3, 3))), r"RadialConstraint received a value of shape \(3, 3\)"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make()


def test_the_base_says_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"Constraint is a constraint without __call__"):
        Constraint()(np.ones(2))


def test_constraints_by_name_and_back():
    for name in ("max_norm", "MinMaxNorm", "non_neg", "unit_norm", "RadialConstraint"):
        constraint = constraints.get(name)
        twin = constraints.deserialize(constraints.serialize(constraint))
        assert type(twin) is type(constraint)
        assert twin.get_config() == constraint.get_config()
    assert constraints.get({"class_name": "MaxNorm", "config": {"max_value": 3}}).max_value == 3
    assert constraints.get(None) is None
    assert constraints.get(np.abs) is np.abs
    assert type(constraints.get(constraints.NonNeg)) is constraints.non_neg
    with pytest.raises(InvalidArgumentError, match=r"Unknown constraint 'non_negg'.*Did you mean 'NonNeg'"):
        constraints.get("non_negg")
