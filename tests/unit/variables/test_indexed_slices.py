"""IndexedSlices: against a row-by-row reference, to the bit."""

from __future__ import annotations

import operator

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distopt import IndexedSlices, Variable
from distopt.errors import InvalidArgumentError
from distopt.variables.indexed_slices import merge

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def naive_sums(rows, indices):
    """Row sums in order of appearance: {index: sum}, in order of first appearance."""
    sums = {}
    for index, row in zip(indices, rows, strict=True):
        sums[index] = sums[index] + row if index in sums else row
    return sums


def naive_tree(parts):
    """The same over replicas: [{index: sum}] -> {index: sum}."""
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [
            {i: (a[i] + b[i] if i in a and i in b else a[i] if i in a else b[i]) for i in [*a, *b]}
            for a, b in (pair if len(pair) == 2 else (pair[0], {}) for pair in pairs)
        ]
    return parts[0]


@st.composite
def replicas_slices(draw):
    """Rows of several replicas, with repeats, empty ones and negative zeros: (dtype, [(rows, indices)])."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    row_shape = draw(st.sampled_from([(), (3,), (2, 2), (0,)]))
    seed = draw(st.integers(0, 2**32 - 1))
    counts = draw(st.lists(st.integers(0, 12), min_size=1, max_size=9))
    rng = np.random.default_rng(seed)
    parts = []
    for count in counts:
        rows = rng.normal(size=(count, *row_shape)) * 10.0 ** rng.integers(-3, 4, (count, *[1] * len(row_shape)))
        rows = np.where(rng.random(rows.shape) < 0.1, -0.0, rows)
        parts.append((rows.astype(dtype), rng.integers(0, 6, count)))
    return dtype, parts


def joined(parts):
    rows, indices = zip(*parts, strict=True)
    slices = IndexedSlices(np.concatenate(rows), np.concatenate(indices), (6, *rows[0].shape[1:]))
    slices._row_counts = tuple(map(len, indices))
    return slices


def wide(dtype):
    return np.float32 if dtype.itemsize == 2 else dtype


def assert_bits(slices, expected, dtype):
    assert slices.dtype == dtype
    assert slices.indices.tolist() == list(expected)
    for got, row in zip(slices.values, expected.values(), strict=True):
        assert got.tobytes() == np.asarray(row).astype(dtype).tobytes()


class TestSums:
    @given(replicas_slices())
    def test_deduplicate_of_one_replica_adds_in_order_of_appearance(self, case):
        dtype, [(rows, indices), *_] = case
        slices = IndexedSlices(rows, indices)
        before = rows.tobytes()
        assert_bits(slices.deduplicate(), naive_sums(rows.astype(wide(dtype)), indices.tolist()), dtype)
        assert rows.tobytes() == before

    @given(replicas_slices())
    def test_deduplicate_of_a_concatenation_uses_the_replica_tree(self, case):
        dtype, parts = case
        expected = naive_tree([naive_sums(rows.astype(wide(dtype)), at.tolist()) for rows, at in parts])
        assert_bits(joined(parts).deduplicate(), expected, dtype)

    @given(replicas_slices())
    def test_merge_of_deduplicated_parts_is_the_same_tree(self, case):
        dtype, parts = case
        wide_parts = [IndexedSlices(rows.astype(wide(dtype)), at).deduplicate() for rows, at in parts]
        assert merge(wide_parts).astype(dtype).values.tobytes() == joined(parts).deduplicate().values.tobytes()

    @given(replicas_slices())
    def test_dense_holds_the_sums_and_zeros(self, case):
        dtype, parts = case
        slices = joined(parts)
        unique, dense = slices.deduplicate(), slices.to_dense()
        assert dense.dtype == dtype
        assert dense.shape == slices.shape
        assert dense[unique.indices].tobytes() == unique.values.tobytes()
        others = np.setdiff1d(np.arange(6), unique.indices)
        assert not dense[others].astype("f4").any()

    def test_sixteen_bits_are_rounded_once(self):
        rows = np.array([2048, 1, 1], np.float16)  # 2048 + 1 is 2048 in float16
        assert IndexedSlices(rows, [0, 0, 0]).deduplicate().values[0] == 2050
        assert merge([IndexedSlices(rows[i : i + 1], [0]) for i in range(3)]).values[0] == 2050

    def test_the_tree_is_not_the_order_of_appearance(self):
        big = np.float32(2**24)
        slices = joined([(np.array([x], "f4"), np.array([0])) for x in (big, 1, 1, 1)])
        assert slices.deduplicate().values[0] == big + np.float32(2)
        assert IndexedSlices(slices.values, slices.indices, slices.dense_shape).deduplicate().values[0] == big

    def test_rows_of_any_layout(self):
        rows = np.asfortranarray(np.arange(12.0).reshape(4, 3))
        np.testing.assert_array_equal(
            IndexedSlices(rows, [1, 1, 0, 1]).deduplicate().values, [rows[0] + rows[1] + rows[3], rows[2]]
        )

    def test_deduplicate_of_unique_rows_is_a_copy(self):
        rows = np.ones((2, 2))
        IndexedSlices(rows, [1, 0]).deduplicate().values[:] = 5
        assert rows.max() == 1


class TestArithmetic:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_scaling_keeps_rows_dtype_and_replicas(self, dtype):
        slices = joined([(np.array([row], dtype), [3]) for row in ([2, 4], [6, 8])])
        for scaled, factor in [
            (slices * 2, 2),
            (2.0 * slices, 2),
            (np.float64(2) * slices, 2),
            (np.asarray(2.0) * slices, 2),
            (slices / 2, 0.5),
            (-slices, -1),
            (slices.astype(dtype), 1),
        ]:
            np.testing.assert_array_equal(scaled.values.astype("f4"), slices.values.astype("f4") * factor)
            assert scaled.dtype == dtype
            assert scaled.indices is slices.indices
            assert (scaled.dense_shape, scaled._row_counts) == ((6, 2), (1, 1))
        np.testing.assert_array_equal(slices.values.astype("f4"), [[2, 4], [6, 8]])

    @pytest.mark.parametrize("function", [operator.add, operator.sub, operator.mul, operator.truediv])
    def test_with_arrays_the_result_is_dense(self, function):
        slices = IndexedSlices([[1.0, 2.0], [3.0, 4.0], [1.0, 1.0]], [1, 1, 0], (2, 2))
        dense, other = slices.to_dense(), np.float32([[2.0, 4.0], [8.0, 16.0]])
        np.testing.assert_array_equal(function(slices, other), function(dense, other))
        np.testing.assert_array_equal(function(other[1:], slices), np.float32(function(other[1:], dense)))
        np.testing.assert_array_equal(function(slices, Variable(other)), function(dense, other))

    def test_numbers_are_added_to_all_elements(self):
        slices = IndexedSlices([[1.0, 2.0]], [0], (2, 2))
        np.testing.assert_array_equal(slices + 1, [[2, 3], [1, 1]])
        np.testing.assert_array_equal(1 - slices, [[0, -1], [1, 1]])
        np.testing.assert_array_equal(slices**2, [[1, 4], [0, 0]])
        np.testing.assert_array_equal(slices + slices, [[2, 4], [0, 0]])

    def test_it_never_becomes_an_array_unnoticed(self):
        slices = IndexedSlices([[1.0, 2.0]], [0], (2, 2))
        with pytest.raises(InvalidArgumentError, match="to_dense"):
            np.asarray(slices)
        with pytest.raises(TypeError):
            np.sqrt(slices)

    def test_astype(self):
        slices = IndexedSlices([1.5], [0]).astype("float64")
        assert slices.dtype == np.float64


class TestValidation:
    def test_numbers_of_python_become_float32(self):
        slices = IndexedSlices([[1, 2.0]], [0])
        assert slices.dtype == np.float32
        assert slices.indices.dtype == np.int64
        assert slices.dense_shape is None

    def test_no_rows_at_all(self):
        slices = IndexedSlices(np.zeros((0, 2), "f4"), [], (3, 2))
        np.testing.assert_array_equal(slices.to_dense(), np.zeros((3, 2)))
        assert len(slices.deduplicate().indices) == 0

    @pytest.mark.parametrize(
        ("values", "indices", "shape", "match"),
        [
            (1.0, [0], None, "one row of values belongs to each index"),
            ([1.0, 2.0], [0], None, "one row of values"),
            ([1.0], [[0]], None, "one row of values"),
            ([1.0], [0.5], None, "integers"),
            ([1.0], [True], None, "integers"),
            ([1.0], [-1], (3,), "negative indices are refused"),
            ([1.0], [3], (3,), "index 3 .* last row is 2"),
            ([[1.0, 2.0]], [0], (3, 3), r"rows of the variable, \(3,\)"),
            ([1.0], [0], (), "dense_shape"),
            (["a"], [0], None, "only numbers"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, values, indices, shape, match):
        with pytest.raises(InvalidArgumentError, match=match):
            IndexedSlices(values, indices, shape)

    def test_an_unknown_shape_is_asked_for(self):
        with pytest.raises(InvalidArgumentError, match=r"dense_shape=variable\.shape"):
            IndexedSlices([1.0], [0]).to_dense()
