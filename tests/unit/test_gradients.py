"""Gradients: their structure, rows, dtypes, and what minimize applies."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distopt import GradientTape, IndexedSlices, Variable
from distopt.errors import InvalidArgumentError
from distopt.gradients import compute_gradients

LABELS = np.array([0, 2, 1])
X = np.random.default_rng(0).normal(size=(3, 4))


def gradient(loss, sources):
    with GradientTape() as tape:
        value = loss()
    return tape.gradient(value, sources)


class TestStructure:
    def test_gradients_come_in_the_structure_of_the_sources(self):
        a, b, c = Variable(1.0), Variable(2.0), Variable(3.0)
        got = gradient(lambda: a * b * c, [a, (b, [c])])
        assert isinstance(got, list)
        assert isinstance(got[1], tuple)
        assert [float(got[0]), float(got[1][0]), float(got[1][1][0])] == [6, 3, 2]

    def test_unconnected_sources_are_none(self):
        a, b = Variable(1.0), Variable(2.0)
        assert gradient(lambda: a * 2, [a, b])[1] is None
        assert gradient(lambda: 5.0, a) is None
        assert gradient(lambda: np.floor(a), a) is None

    def test_targets_are_summed(self):
        w = Variable([1.0, 2.0])
        with GradientTape() as tape:
            vector, scalar = w * w, np.sum(w) * 10
        np.testing.assert_array_equal(tape.gradient([vector, scalar, 7.0], w), [12, 14])

    def test_a_variable_is_a_target_too(self):
        w = Variable([1.0, 2.0])
        with GradientTape() as tape:
            tape.watch(w)
        np.testing.assert_array_equal(tape.gradient(w, w), [1, 1])

    def test_output_gradients_multiply(self):
        w = Variable([1.0, 2.0])
        upstream = np.array([10.0, 100.0])
        with GradientTape(persistent=True) as tape:
            y = w * w
        np.testing.assert_array_equal(tape.gradient(y, w, output_gradients=upstream), [20, 400])
        np.testing.assert_array_equal(tape.gradient([y, y], w, [upstream, [1.0, 1.0]]), [22, 404])
        np.testing.assert_array_equal(upstream, [10, 100])

    @pytest.mark.parametrize("given_", [1.0, [1.0], [[1.0, 1.0]]])
    def test_output_gradients_of_other_shapes_are_refused(self, given_):
        w = Variable([1.0, 2.0])
        with GradientTape() as tape:
            y = w * w
        with pytest.raises(InvalidArgumentError, match="output_gradients"):
            tape.gradient(y, w, np.asarray(given_))

    def test_intermediate_values_are_sources(self):
        w = Variable(2.0)
        with GradientTape(persistent=True) as tape:
            y = w * w
            z = y * y
        assert float(tape.gradient(z, y)) == 8
        assert float(tape.gradient(z, w)) == 32

    def test_gradients_share_no_memory(self):
        a, b = Variable([1.0, 2.0]), Variable([3.0, 4.0])
        upstream = np.ones(2, "f4")
        with GradientTape() as tape:
            y = a + b
        first, second = tape.gradient(y, [a, b], upstream)
        first[:] = 7
        np.testing.assert_array_equal(second, [1, 1])
        np.testing.assert_array_equal(upstream, [1, 1])

    def test_gradients_are_contiguous(self):
        w = Variable(np.ones((3, 2)))
        got = gradient(lambda: np.sum(w.T @ X), w)
        assert got.flags.c_contiguous
        assert got.flags.owndata

    def test_callables_and_slices_are_no_targets(self):
        w = Variable(1.0)
        for target in (lambda: w, IndexedSlices([1.0], [0])):
            with GradientTape() as tape:
                _ = w * 2
            with pytest.raises(InvalidArgumentError, match="inside of the tape's block"):
                tape.gradient(target, w)


class TestRows:
    def setup_method(self):
        self.table = Variable(np.arange(12.0, dtype="f4").reshape(4, 3), name="table")

    def test_indexing_by_integers_gives_slices(self):
        scale = np.array([1.0, 2.0, 3.0], "f4")[:, None]
        for read in (
            lambda: self.table[np.array([3, 1, 3])],
            lambda: self.table[[3, 1, -1]],
            lambda: np.take(self.table, [3, 1, 3], axis=0),
            lambda: self.table.take([3, 1, 3], axis=0),
        ):
            got = gradient(lambda read=read: np.sum(read() * scale), self.table)
            assert isinstance(got, IndexedSlices)
            assert got.indices.tolist() == [3, 1, 3]
            assert got.dense_shape == (4, 3)
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got.values, np.broadcast_to(scale, (3, 3)))

    def test_index_arrays_of_any_shape_become_rows(self):
        ids = np.array([[0, 1], [2, 0]])
        got = gradient(lambda: np.sum(self.table[ids] ** 2), self.table)
        assert got.indices.tolist() == [0, 1, 2, 0]
        np.testing.assert_array_equal(got.values, 2 * self.table.numpy()[[0, 1, 2, 0]])

    def test_several_gathers_concatenate_in_forward_order(self):
        def loss():
            first, second, third = self.table[[2]], self.table[[0, 1]], self.table[[2, 2]]
            return np.sum(third * 3) + np.sum(first) * np.sum(second * 2)

        assert gradient(loss, self.table).indices.tolist() == [2, 0, 1, 2, 2]

    def test_rows_and_dense_use_together_are_dense(self):
        got = gradient(lambda: np.sum(self.table[[1, 1]]) + np.sum(self.table * 10), self.table)
        np.testing.assert_array_equal(got, [[10] * 3, [12] * 3, [10] * 3, [10] * 3])

    def test_no_rows(self):
        got = gradient(lambda: np.sum(self.table[[]]) + 1.0, self.table)
        assert isinstance(got, IndexedSlices)
        assert got.values.shape == (0, 3)

    def test_an_index_out_of_range_is_an_error(self):
        for index in ([4], [-5]):
            with GradientTape(), pytest.raises(IndexError):
                self.table[index]

    @given(st.lists(st.lists(st.integers(-4, 3), max_size=5), min_size=1, max_size=4))
    def test_slices_equal_the_dense_gradient(self, gathers):
        table = Variable(np.arange(12.0).reshape(4, 3) / 10)

        def loss(t, weights):
            return sum(np.sum(np.tanh(t[np.array(ids, int)]) * w) for ids, w in zip(gathers, weights, strict=True))

        weights = list(range(1, len(gathers) + 1))
        sparse = gradient(lambda: loss(table, weights), table)
        dense = gradient(lambda: loss(table * 1, weights), table)
        assert isinstance(sparse, IndexedSlices)
        assert isinstance(dense, np.ndarray)
        np.testing.assert_allclose(sparse.to_dense(), dense, rtol=1e-12)


class TestDtypes:
    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
    def test_gradients_have_the_dtype_of_the_variable(self, dtype):
        rng = np.random.default_rng(5)
        x = rng.normal(size=(4, 3)).astype(dtype)
        w, b, t = Variable(rng.normal(size=(3, 2)).astype(dtype)), Variable(np.zeros(2, dtype)), Variable(x)

        def loss():
            hidden = np.maximum(t[[0, 1, 1]] @ w + b, 0)
            return np.mean(np.where(hidden > 0.1, hidden, hidden * 0.5) ** 2)

        got = gradient(loss, [w, b, t])
        assert [g.dtype for g in got] == [dtype] * 3
        assert isinstance(got[2], IndexedSlices)
        w, b, t = (Variable(v.numpy().astype("f8")) for v in (w, b, t))
        expected = gradient(loss, [w, b, t])
        tolerance = 0.05 if np.dtype(dtype).itemsize == 2 else 1e-5
        for g, e in zip(got[:2], expected[:2], strict=True):
            np.testing.assert_allclose(g.astype("f8"), e, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(got[2].values.astype("f8"), expected[2].values, rtol=tolerance, atol=tolerance)

    def test_the_reverse_pass_stays_in_float32(self):
        w = Variable(np.ones((2, 2), "f4"))
        with GradientTape(persistent=True) as tape:
            hidden = w * 2
            y = np.sum(np.maximum(hidden, 0) * np.where(hidden > 0, hidden, 0.0))
        assert tape.gradient(y, hidden).dtype == np.float32

    def test_mixed_dtypes(self):
        a, b = Variable([1.0, 2.0], dtype="float64"), Variable([3.0, 4.0], dtype="float16")
        got = gradient(lambda: np.sum(a * b), [a, b])
        assert [g.dtype for g in got] == [np.float64, np.float16]
        np.testing.assert_array_equal(got, [[3, 4], [1, 2]])


class TestComputeGradients:
    def test_a_callable_loss(self):
        a, b, c = Variable(2.0), Variable(3.0, trainable=False), Variable(1.0)
        pairs = compute_gradients(lambda: a * a * b, [a, b, c])
        assert [variable for _, variable in pairs] == [a, b, c]
        assert [g if g is None else float(g) for g, _ in pairs] == [12, 4, None]

    def test_variables_made_by_the_loss(self):
        made = []

        def loss():
            if not made:
                made.append(Variable([1.0, 2.0]))
            return np.sum(made[0] ** 2)

        [(g, variable)] = compute_gradients(loss, lambda: made)
        assert variable is made[0]
        np.testing.assert_array_equal(g, [2, 4])

    def test_a_traced_loss_with_its_tape(self):
        w = Variable(np.ones(1))
        with GradientTape() as tape:
            loss = 3 * w
        [(g, _)] = compute_gradients(loss, [w], tape=tape)
        np.testing.assert_array_equal(g, [3])

    def test_a_traced_loss_without_its_tape_is_an_error(self):
        w = Variable(1.0)
        with GradientTape():
            loss = w * 2
        for value in (loss, np.float32(2)):
            with pytest.raises(ValueError, match="`tape` is required"):
                compute_gradients(value, [w])

    def test_a_callable_loss_under_a_given_tape(self):
        w, tape = Variable(2.0), GradientTape(persistent=True)
        [(g, _)] = compute_gradients(lambda: w * w, [w], tape=tape)
        assert float(g) == 4

    def test_grad_loss_multiplies(self):
        v0, v1 = Variable([1.0, 2.0]), Variable([3.0, 4.0])
        pairs = compute_gradients(lambda: v0 * 5 + v1 * 3, [v0, v1], grad_loss=np.array([42.0, -42.0]))
        np.testing.assert_array_equal([g for g, _ in pairs], [[210, -210], [126, -126]])

    @pytest.mark.parametrize("dtype", ["int64", "bool"])
    def test_integers_are_refused(self, dtype):
        bad = Variable(1, dtype=dtype, name="bad")
        with pytest.raises(ValueError, match=r"Invalid type .*'bad'"):
            compute_gradients(lambda: bad * 1.0, [bad])

    def test_traced_values_are_sources(self):
        with GradientTape() as tape:
            x = tape.watch(3.0)
            y = x * x
        assert float(compute_gradients(y, [x], tape=tape)[0][0]) == 6
