"""Clipping by value, by norm, by global norm: arguments, formulas, order, dtypes."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distopt import IndexedSlices, Variable, optimizers
from distopt.optimizers import legacy

SGDS = {"keras3": optimizers.SGD, "legacy": legacy.SGD}


@pytest.fixture(params=list(SGDS))
def sgd(request):
    return SGDS[request.param]


def step_of(optimizer, *gradients):
    """What one step with learning rate 1 takes off variables of zeros: the clipped gradients."""
    variables = [Variable(np.zeros(g.shape, g.dtype)) for g in gradients]
    optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return [-v.numpy() for v in variables]


def f32(*values):
    return np.array(values, np.float32)


def test_clipvalue(sgd):
    x = Variable([1.0, 2.0])
    sgd(learning_rate=1.0, clipvalue=1.0).apply_gradients([(f32(7, 0.5), x)])
    np.testing.assert_array_equal(x.numpy(), [0, 1.5])


def test_clipnorm_is_of_each_variable(sgd):
    a, b = step_of(sgd(learning_rate=1.0, clipnorm=1.0), f32(3, 4), f32(0.3, 0.4))
    np.testing.assert_allclose(a, [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(b, [0.3, 0.4], rtol=1e-6)


def test_global_clipnorm_is_of_all_variables(sgd):
    """Upstream's testGradGlobalClipNorm."""
    a, b = Variable([1.0]), Variable([2.0])
    sgd(learning_rate=1.0, global_clipnorm=2.0).apply_gradients([(f32(3), a), (f32(4), b)])
    np.testing.assert_allclose([a.numpy()[0], b.numpy()[0]], [-0.2, 0.4], atol=1e-6)


def test_below_the_limit_nothing_changes(sgd):
    for limit in ({"clipvalue": 5.0}, {"global_clipnorm": 5.0}):
        a, b = step_of(sgd(learning_rate=1.0, **limit), f32(1, -2), f32(3))
        np.testing.assert_array_equal([*a, *b], [1, -2, 3])


def test_the_legacy_order_is_value_then_norm_then_global_norm():
    optimizer = legacy.SGD(1.0, clipvalue=3.0, clipnorm=2.0)
    optimizer.global_clipnorm = 1.0
    a, b = step_of(optimizer, f32(9, 4), f32(0, 3))
    # by value: (3, 3), (0, 3); by norm 2 each: (1.41, 1.41), (0, 2); all: norm sqrt(8) -> 1
    np.testing.assert_allclose(a, [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(b, [0, 1 / np.sqrt(2)], rtol=1e-6)


def test_transformers_see_clipped_gradients_in_keras_3():
    seen = []

    def look(pairs):
        seen.extend(np.array(g) for g, _ in pairs)
        return pairs

    step_of(optimizers.SGD(1.0, clipvalue=1.0, gradient_transformers=[look]), f32(7, 0.5))
    np.testing.assert_array_equal(seen, [[1, 0.5]])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_every_dtype_and_all_of_them_in_one_norm(sgd, dtype):
    gradients = [np.array([3.0], dtype), np.array([4.0], np.float32), np.zeros(2, np.float64)]
    a, b, _ = step_of(sgd(learning_rate=1.0, global_clipnorm=2.5), *gradients)
    np.testing.assert_allclose([float(a[0]), float(b[0])], [1.5, 2.0], rtol=1e-2)


def test_a_limit_of_zero_stops_training(sgd):
    for argument in ("clipvalue", "clipnorm", "global_clipnorm"):
        for gradient in (f32(1, 2), f32(0, 0)):
            (a,) = step_of(sgd(learning_rate=1.0, **{argument: 0.0}), gradient)
            np.testing.assert_array_equal(a, [0, 0])


def test_a_global_norm_that_is_not_finite_is_seen_everywhere(sgd):
    for bad in (np.inf, np.nan):
        a, b = step_of(sgd(learning_rate=1.0, global_clipnorm=1.0), f32(bad, 1), f32(1))
        assert np.isnan([*a, *b]).all()


def test_norms_neither_overflow_nor_underflow(sgd):
    (a,) = step_of(sgd(learning_rate=1.0, clipnorm=1.0), f32(3e30, 4e30))
    np.testing.assert_allclose(a, [0.6, 0.8], rtol=1e-6)
    (b,) = step_of(sgd(learning_rate=1.0, global_clipnorm=1e-30), f32(3e-28, 4e-28))
    np.testing.assert_allclose(b, [0.6e-30, 0.8e-30], rtol=1e-5)


def test_sparse_rows_are_clipped_before_they_are_added_in_the_legacy_family():
    rows = IndexedSlices(f32(3, 3)[:, None], [1, 1], (3, 1))
    (by_value,) = step_of(legacy.SGD(1.0, clipvalue=2.0), rows)
    np.testing.assert_array_equal(by_value.ravel(), [0, 4, 0])
    (by_norm,) = step_of(legacy.SGD(1.0, clipnorm=3.0), rows)
    np.testing.assert_allclose(by_norm.ravel(), [0, 6 * 3 / np.sqrt(18), 0], rtol=1e-6)
    np.testing.assert_array_equal(rows.values.ravel(), [3, 3], err_msg="the user's array")


def test_sparse_rows_are_added_before_they_are_clipped_in_keras_3():
    rows = IndexedSlices(f32(3, 3)[:, None], [1, 1], (3, 1))
    for limit, expected in (({"clipvalue": 2.0}, 2), ({"clipnorm": 3.0}, 3), ({"global_clipnorm": 3.0}, 3)):
        (clipped,) = step_of(optimizers.SGD(1.0, **limit), rows)
        np.testing.assert_allclose(clipped.ravel(), [0, expected, 0], rtol=1e-6)


def test_dense_and_sparse_in_one_global_norm(sgd):
    rows = IndexedSlices(f32(4)[:, None], [2], (3, 1))
    dense, sparse = step_of(sgd(learning_rate=1.0, global_clipnorm=2.5), f32(3), rows)
    np.testing.assert_allclose([*dense, *sparse.ravel()], [1.5, 0, 0, 2], rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    family=st.sampled_from(list(SGDS)),
    limit=st.floats(1e-3, 10),
    gradients=st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5), min_size=1, max_size=4),
)
def test_formulas(family, limit, gradients):
    arrays = [np.array(g) for g in gradients]
    whole = np.sqrt(sum(float(np.sum(a * a)) for a in arrays))
    expected = {
        "clipvalue": [np.clip(a, -limit, limit) for a in arrays],
        "clipnorm": [a * limit / max(np.sqrt(np.sum(a * a)), limit) for a in arrays],
        "global_clipnorm": [a * limit / max(whole, limit) for a in arrays],
    }
    for argument, results in expected.items():
        for mine, right in zip(step_of(SGDS[family](1.0, **{argument: limit}), *arrays), results, strict=True):
            np.testing.assert_allclose(mine, right, rtol=1e-12, atol=1e-300)


def test_negative_limits_are_refused(sgd):
    for argument in ("clipvalue", "clipnorm", "global_clipnorm"):
        for bad in (-1.0, float("nan"), "much", True):
            with pytest.raises(ValueError, match=argument):
                sgd(**{argument: bad})
    with pytest.raises(ValueError, match=r"Expected clipnorm >= 0, received: -1.0"):
        legacy.SGD(clipnorm=-1.0)


def test_which_limits_go_together():
    with pytest.raises(ValueError, match="Cannot accept both"):
        legacy.SGD(clipnorm=1.0, global_clipnorm=1.0)
    assert legacy.SGD(clipnorm=2.0, clipvalue=2.0).clipvalue == 2.0
    with pytest.raises(ValueError, match="Only one of"):
        optimizers.SGD(clipnorm=1.0, clipvalue=1.0)


def test_legacy_limits_are_attributes_and_exclude_transformers():
    sgd = legacy.SGD(1.0)
    sgd.clipvalue = 1.0
    np.testing.assert_array_equal(step_of(sgd, f32(5, 0.5)), [[1, 0.5]])
    sgd.clipvalue = None
    np.testing.assert_array_equal(step_of(sgd, f32(5, 0.5)), [[5, 0.5]])
    for argument in ("clipvalue", "clipnorm", "global_clipnorm"):
        with pytest.raises(ValueError, match=f"`{argument}` cannot be set when `gradient_transformers` is set"):
            legacy.SGD(gradient_transformers=[lambda pairs: pairs], **{argument: 1.0})
        with pytest.raises(ValueError, match="`gradient_transformers` cannot be set"):
            legacy.SGD(**{argument: 1.0}).gradient_transformers = [lambda pairs: pairs]
    with pytest.raises(ValueError, match=">= 0"):
        sgd.clipnorm = -1


@pytest.mark.parametrize("limit", ["clipvalue", "clipnorm", "global_clipnorm"])
def test_a_limit_of_infinity_never_clips(limit):
    for cls in (optimizers.SGD, legacy.SGD):
        x, table = Variable([0.0, 0.0]), Variable([[0.0], [0.0]])
        cls(1.0, **{limit: float("inf")}).apply_gradients(
            [([3.0, -4.0], x), (IndexedSlices([[7.0]], [1], (2, 1)), table)]
        )
        np.testing.assert_array_equal(x.numpy(), [-3, 4])
        np.testing.assert_array_equal(table.numpy(), [[0], [-7]])


def test_a_global_norm_that_is_not_finite_makes_nan_also_where_the_limit_is_infinite():
    x = Variable([0.0, 0.0])
    optimizers.SGD(1.0, global_clipnorm=float("inf")).apply_gradients([([float("inf"), 1.0], x)])
    assert np.isnan(x.numpy()).all()


ENDS = [
    (np.float32, (3e38, 3e38), 1.0, (0.5**0.5, 0.5**0.5)),
    (np.float32, (1e38, 1e38), 100.0, (100 * 0.5**0.5, 100 * 0.5**0.5)),
    (np.float32, (3e38, 3e38), 1e-3, (1e-3 * 0.5**0.5, 1e-3 * 0.5**0.5)),
    (np.float32, (3e38, 3e38), 1e39, (3e38, 3e38)),
    (np.float32, (2e38, 2e38), 1e38, (1e38 * 0.5**0.5, 1e38 * 0.5**0.5)),
    (np.float16, (60000, 60000), 1e3, (1e3 * 0.5**0.5, 1e3 * 0.5**0.5)),
    (ml_dtypes.bfloat16, (3e38, 3e38), 1.0, (0.5**0.5, 0.5**0.5)),
    (np.float64, (3e200, 4e200), 1.0, (0.6, 0.8)),
    (np.float64, (3e200, 4e200), 1e-200, (0.6e-200, 0.8e-200)),
    (np.float64, (1.5e308, 1.5e308), 1.0, (0.5**0.5, 0.5**0.5)),
    (np.float64, (1.5e308, 1.5e308), 1e308, (1e308 * 0.5**0.5, 1e308 * 0.5**0.5)),
]


@pytest.mark.parametrize("limit_name", ["clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize(("dtype", "values", "limit", "clipped"), ENDS, ids=str)
def test_clipnorm_at_the_ends_of_the_range(sgd, limit_name, form, dtype, values, limit, clipped):
    gradient = np.array(values, dtype)
    others = [np.zeros(2, dtype)]
    if limit_name == "clipnorm" and 1e-3 <= limit <= 1e38:
        others.append(np.array([0.5 * limit, 0], dtype))
    given = IndexedSlices(gradient, [0, 1], (2,)) if form == "sparse" else gradient
    variables = [Variable(np.zeros(2, dtype)) for _ in [given, *others]]
    optimizer = sgd(1.0, **{limit_name: limit})
    optimizer.apply_gradients(zip([given, *others], variables, strict=True))
    rtol = float(ml_dtypes.finfo(dtype).eps) * 4
    np.testing.assert_allclose(-variables[0].numpy().astype(np.float64), np.array(clipped), rtol=rtol)
    for variable, other in zip(variables[1:], others, strict=True):
        np.testing.assert_allclose(-variable.numpy().astype(np.float64), other.astype(np.float64), rtol=rtol)


def test_global_clipnorm_of_many_at_the_end_of_the_range(sgd):
    gradients = [np.array([v]) for v in (1e154, 1e154, 1e154, 1e154, 1e-3)]
    for taken in step_of(sgd(1.0, global_clipnorm=2.0), *gradients)[:4]:
        np.testing.assert_allclose(taken, [1.0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clipnorm_of_an_infinite_gradient_is_as_ever(sgd, dtype):
    large = np.finfo(dtype).max
    (taken,) = step_of(sgd(1.0, clipnorm=1.0), np.array([np.inf, 1.0, large], dtype))
    np.testing.assert_array_equal(np.abs(taken), [np.nan, 0.0, 0.0])
    for taken in step_of(sgd(1.0, global_clipnorm=1.0), np.array([np.inf, 1.0], dtype), np.array([1.0], dtype)):
        assert np.isnan(taken).all()
