"""Gradients of NumPy functions under a tape, against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distopt import GradientTape, IndexedSlices, Variable, stop_gradient

LABELS = np.array([0, 2, 1])
X = np.random.default_rng(0).normal(size=(3, 4))
C, EYE = np.arange(12.0).reshape(4, 3), 5 * np.eye(3)
ORDER = np.array([[2, 0], [1, 1], [0, 2], [0, 0]])


def gradient(loss, sources):
    with GradientTape() as tape:
        value = loss()
    return tape.gradient(value, sources)


def log_softmax_loss(w):
    logits = X @ w
    logits = logits - np.max(logits, axis=1, keepdims=True)
    log_p = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    return -np.mean(np.take_along_axis(log_p, LABELS[:, None], axis=1))


# Functions of a (4, 3) array of distinct values between -1.3 and 1.4.
FUNCTIONS = {
    "arithmetic": lambda w: (3 * w**2 - w / 2 + 1) * -w - 2 / (w + 5) + w % 0.7,
    "powers": lambda w: 2.0 ** (1 - w) % 3 + (w + 3) ** w + np.sqrt(w * w),
    "elementwise": lambda w: np.tanh(w) + np.exp(w) * np.sin(w) + np.expm1(w) - np.sinc(w) + np.reciprocal(w),
    "logarithms": lambda w: np.log(w + 2) + np.log1p(w * w) + np.log2(w + 3) + np.log10(w + 3),
    "two operands": lambda w: np.logaddexp(w, w[0]) * np.arctan2(w, w[0] + 3) + np.hypot(w, w[:, :1]),
    "broadcasting": lambda w: w[:, None, :] * w[None] + w[0] * w.sum() - np.broadcast_to(w[0], (4, 3)),
    "relu": lambda w: np.maximum(w, 0.01) * np.minimum(w, 0.5) + np.fmax(w, w[0] * 0.3) + np.abs(w),
    "where": lambda w: np.where(w > 0, w, 0.1 * w) ** 2 + np.where(w > 0, w, 0.0) - np.where(C > 3, 1, w),
    "where, broadcast": lambda w: np.where(C > 3, w[0, 0], w) + np.where(C[:, None] > 3, w[0], w[:, :1]),
    "clip": lambda w: np.clip(w, -0.9, 0.7) + w.clip(min=-0.3) + np.clip(w, None, 0.6) + np.clip(w, -C, 1),
    "sums": lambda w: w.sum(axis=0) * w.mean(axis=(0, 1)) + np.sum(w, 0, float) + w.mean(0, keepdims=True),
    "extrema": lambda w: w.max(axis=-1, keepdims=True) * np.min(w, axis=(0, 1)) + np.max(w, axis=0),
    "variances": lambda w: w.std(axis=(0, 1), keepdims=True) + np.var(w, axis=0, ddof=1) + w.std(0),
    "products": lambda w: np.prod(w, axis=0) * np.prod(w, axis=(0, 1)) + np.cumsum(w, 0) + np.cumsum(w, -1),
    "matmul": lambda w: X @ w @ w.T + w @ w[0] + w[:, 1] @ w[:, 2] + np.sum(w[:, 0] @ w),
    "batched matmul": lambda w: np.matmul(w.reshape(2, 2, 3), w.reshape(1, 4, 3).transpose(0, 2, 1)),
    "dot": lambda w: np.dot(w, w[1]) * np.inner(w[0], w[1]) + np.inner(w, w) + w.dot(w.T),
    "tensordot": lambda w: np.tensordot(w, w, ([0], [0])) + np.tensordot(w.T, w, 1) + np.outer(w[0], w[1]),
    "kron and cross": lambda w: np.kron(w[:2], w[2:]).sum() * np.cross(w[0], w[1]) + np.trace(w, 1),
    "einsum": lambda w: np.einsum("ij,kj,k->i", w, w, w[:, 0], optimize=True) + np.einsum("...j,j", w, w[0]),
    "einsum of lists": lambda w: np.einsum(w, [0, 1], w, [2, 1], [0, 2]) * np.einsum("ij->", w),
    "norms": lambda w: np.linalg.norm(w) * np.linalg.norm(w, 3, axis=1) + np.linalg.norm(w, "nuc"),
    "norms of axes": lambda w: np.linalg.norm(w, axis=1, keepdims=True) * np.linalg.norm(w, 3, axis=0),
    "inverses": lambda w: np.linalg.inv(w[1:] + EYE) * np.linalg.det(w[1:]),
    "solve": lambda w: np.linalg.solve(w[1:] + EYE, w[0]) + np.linalg.solve(w[:3] + EYE, w[1:]),
    "decompositions": lambda w: np.linalg.cholesky(w.T @ w + EYE) * np.linalg.slogdet(w[:3] + EYE)[1],
    "spectra": lambda w: np.linalg.svd(w, full_matrices=False)[1] + np.linalg.eigh(w.T @ w)[0],
    "reshape": lambda w: np.squeeze(np.expand_dims(w.reshape(2, 6), (0, 2))).T.ravel() * w.ravel(order="F"),
    "transpose": lambda w: w.transpose(1, 0) * np.moveaxis(w, 0, 1) * w.T + w.swapaxes(0, 1),
    "triangles": lambda w: np.triu(w) * 2 + np.tril(w, 1) + np.diag(w[0])[0] + np.diag(w[:3]),
    "join": lambda w: np.concatenate([w, w * 2], 1) + np.hstack([w, w]) + np.concatenate((w, -w), axis=-1),
    "stack": lambda w: np.stack([w, w * 3], -1) + np.vstack([w[0], w[1]]).T + np.append(w[0, 0], w[1, 1]),
    "columns": lambda w: np.column_stack([w, w[:, 0]]) @ np.atleast_2d(w.ravel()[:4]).T,
    "split": lambda w: np.split(w, 2)[0] * np.split(w, [2])[1] + np.array_split(w, 2)[0] + np.vsplit(w, 2)[1],
    "repeat and tile": lambda w: np.repeat(w, 2, axis=0) * np.tile(w, (2, 1)) + np.tile(w, (1, 2, 1))[0],
    "tile by one number": lambda w: np.tile(w, 2) * np.repeat(w, 2, axis=1) + np.repeat(w, 2).reshape(4, 6),
    "roll and flip": lambda w: np.flip(w, 0) * np.roll(w, 1, axis=1) + np.flip(w) + np.fliplr(w) + w[::-1],
    "differences": lambda w: np.diff(w, axis=0) + np.gradient(w, axis=0)[:3] + np.roll(w, 2)[1:],
    "sort": lambda w: np.sort(w.ravel()) * np.partition(w.ravel(), 3)[0] + w[np.argsort(w[:, 0])].ravel(),
    "pad": lambda w: np.pad(w, 1) ** 2 + np.pad(w, ((0, 2), (1, 1)), constant_values=2.0),
    "index": lambda w: w[1, 2] * w[:, 1] * w[[0, 1, 1, 3], [0, 1, 1, 2]] + w[-1, ::3].sum() + w[..., 0],
    "index arrays": lambda w: w[np.ix_([0, 1], [1, 2])] * w[None, [0, 1, 1], :2][0, 1:] + w[[2, 0]][:, :2],
    "masks": lambda w: (w[w > 0] ** 2).sum() * w[np.array([True, False, True, True])],
    "take": lambda w: np.take(w, [2, 0], axis=1) * np.take(w, 5) + w.take([1, 1])[:1] + np.take(w, [-1], 1),
    "take along": lambda w: np.take_along_axis(w, ORDER, 1) + np.take_along_axis(w, ORDER[:, :1], 0)[:, 1:],
    "iteration": lambda w: sum(row * (i + 1) for i, row in enumerate(w)),
    "rebinding operators": lambda w: _accumulated(w),
    "cast": lambda w: w.astype("float64") * np.astype(w, np.float64) * w.sum().astype("float64"),
    "copies": lambda w: +w * np.copy(w) * w.copy() * w.flatten("F").reshape(4, 3) + np.nan_to_num(w),
    "softmax": log_softmax_loss,
}  # fmt: skip


def _accumulated(w):
    total = 0.0
    for i in range(3):
        total += np.sum(w[i]) ** 2
        total *= 1.5
    return total


def finite_differences(loss, w, step=1e-6):
    out = np.zeros_like(w)
    for at in np.ndindex(w.shape):
        move = np.zeros_like(w)
        move[at] = step
        out[at] = (loss(w + move) - loss(w - move)) / (2 * step)
    return out


class TestValues:
    @pytest.mark.parametrize("name", FUNCTIONS)
    @settings(max_examples=3, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1))
    def test_finite_differences(self, name, seed):
        rng = np.random.default_rng(seed)
        w = rng.permutation(np.linspace(-1.3, 1.37, 12)).reshape(4, 3)
        upstream = rng.normal(size=np.shape(FUNCTIONS[name](w)))

        def loss(value):
            return np.sum(FUNCTIONS[name](value) * upstream)

        variable = Variable(w)
        got = gradient(lambda: loss(variable), variable)
        dense = got.to_dense() if isinstance(got, IndexedSlices) else got
        expected = finite_differences(loss, w)
        np.testing.assert_allclose(dense, expected, rtol=1e-5, atol=1e-6 * (1 + np.abs(expected).max()))

    def test_the_example_of_minimize(self):
        var1, var2 = Variable(2.0), Variable(5.0)
        grads = gradient(lambda: 3 * var1 * var1 + 2 * var2 * var2, [var1, var2])
        assert [float(g) for g in grads] == [12.0, 20.0]

    def test_variables_mix_with_traced_values_on_either_side(self):
        a, b = Variable([1.0, 2.0]), Variable([3.0, 4.0])
        got = gradient(lambda: np.sum((a * 2) * b + b * (a * 2) + np.dot(a * 1, b)), [a, b])
        np.testing.assert_array_equal(got, [[18, 24], [6, 12]])

    def test_a_network_with_a_hidden_layer(self):
        rng = np.random.default_rng(1)
        w1, b1, w2 = (Variable(rng.normal(size=shape)) for shape in [(4, 5), (5,), (5, 1)])

        def loss():
            return np.mean((np.maximum(X @ w1 + b1, 0) @ w2 - 1) ** 2)

        got = gradient(loss, [w1, b1, w2])
        for variable, grad in zip([w1, b1, w2], got, strict=True):
            kept = variable.numpy()

            def moved(value, variable=variable):
                variable.assign(value)
                return float(loss())

            expected = finite_differences(moved, kept)
            variable.assign(kept)
            np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-8)

    def test_stop_gradient_is_a_constant(self):
        w = Variable(3.0)
        assert float(gradient(lambda: w * stop_gradient(w * 2), w)) == 6.0
