"""Each function of ops against NumPy's of the same name, or against a formula."""

from __future__ import annotations

import numpy as np
import pytest

from distopt import GradientTape, IndexedSlices, Variable, ops

A = np.array([[0.5, -0.25, 2.0], [0.125, 0.75, -1.5]], "f4")
S = np.array([[2.0, 0.5], [0.5, 3.0]], "f4")
SEVERAL = {"svd", "eigh", "qr"}

SAME = {
    "exp2 expm1 sin cos tan sinh cosh arctan arcsinh ceil round trunc real imag conj conjugate angle isinf argmin "
    "argsort cumprod median amax amin count_nonzero average sort flip log2 log10 ravel nan_to_num": (np.abs(A),),
    "arcsin arccos arctanh": (A / 4,),
    "arccosh": (np.abs(A) + 1,),
    "inv det cholesky trace tril triu diagonal svd eigh qr diag": (S,),
    "outer inner solve arctan2 logaddexp hypot copysign tensordot": (S, S),
    "logical_xor": (A > 0, A > 0.5),
    "quantile": (A, 0.25),
    "take_along_axis": (A, np.array([[1], [0]]), 1),
    "repeat": (A, 2, 1),
    "tile": (A, (2, 1)),
    "roll": (A, 1),
    "pad": (A, 1),
    "split": (A, 3, 1),
    "moveaxis swapaxes": (A, 0, 1),
    "hstack vstack": ([A, A],),
}
CASES = [(name, args) for names, args in SAME.items() for name in names.split()]


@pytest.mark.parametrize(("name", "args"), CASES, ids=[name for name, _ in CASES])
@pytest.mark.parametrize("make", [np.array, Variable], ids=["array", "Variable"])
def test_functions_are_those_of_numpy(name, args, make):
    expected = getattr(np, name, None) or getattr(np.linalg, name)
    first = [make(a) for a in args[0]] if isinstance(args[0], list) else make(args[0])
    got, wanted = getattr(ops, name)(first, *args[1:]), expected(*args)
    for each, right in zip(got, wanted, strict=True) if name in SEVERAL | {"split"} else [(got, wanted)]:
        np.testing.assert_allclose(each, right, rtol=1e-6)
        assert np.asarray(each).dtype.itemsize <= max(np.asarray(right).dtype.itemsize, 4)
        assert np.asarray(each).dtype.kind == np.asarray(right).dtype.kind


def test_floating_results_are_float32():
    for name in ("expm1", "median", "average", "logsumexp", "softmax", "sigmoid", "gelu", "inv", "normalize"):
        assert getattr(ops, name)(S).dtype == np.float32, name
    assert ops.svd(S, compute_uv=False).dtype == ops.lstsq(S, S).dtype == np.float32
    assert {part.dtype for part in ops.svd(S)} == {np.dtype("f4")}


def test_activations_and_their_limits():
    x = np.array([-800.0, -1.0, 0.0, 1.0, 800.0])
    np.testing.assert_allclose(ops.sigmoid(x), [0, 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1])
    np.testing.assert_allclose(ops.softplus(x), [0, np.log1p(np.exp(-1)), np.log(2), np.log1p(np.e), 800])
    np.testing.assert_allclose(ops.softsign(x), x / (1 + np.abs(x)))
    np.testing.assert_allclose(ops.relu(x), np.maximum(x, 0))
    np.testing.assert_allclose(ops.silu(x)[1:], (x * ops.sigmoid(x))[1:])
    np.testing.assert_allclose(ops.softmax(x), [0, 0, 0, 0, 1], atol=1e-300)
    np.testing.assert_allclose(ops.log_softmax(x), [-1600, -801, -800, -799, 0])
    np.testing.assert_allclose(ops.logsumexp(np.stack([x, x]), axis=0), x + np.log(2))
    with np.errstate(divide="ignore"):
        assert ops.logsumexp(np.array([-np.inf, -np.inf])) == -np.inf
    np.testing.assert_allclose(ops.gelu([0.0, 1.0]), [0, 0.841192], rtol=1e-6)
    np.testing.assert_allclose(ops.normalize([3.0, 4.0]), [0.6, 0.8], rtol=1e-6)


def test_division_by_zero_gives_zero_where_asked_for():
    got = ops.divide_no_nan(np.array([1.0, 2.0], "f4"), np.array([0.0, 4.0], "f4"))
    np.testing.assert_array_equal(got, [0, 0.5])
    assert got.dtype == np.float32


def test_making_and_choosing():
    v = Variable(A)
    assert ops.array(v).base is None
    assert (ops.ndim(v), ops.size(v), ops.size(IndexedSlices([1.0], [0], (4,)))) == (2, 6, 4)
    assert [ops.is_tensor(x) for x in (v, A, np.float32(1), 1.0, [1.0])] == [True, True, True, False, False]
    assert type(ops.convert_to_numpy(v)) is np.ndarray
    np.testing.assert_array_equal(ops.eye(2, 3, 1), np.eye(2, 3, 1))
    np.testing.assert_array_equal(ops.identity(2), np.eye(2))
    assert ops.empty((2,)).dtype == ops.eye(2).dtype == ops.linspace(0, 1, 3).dtype == np.float32
    np.testing.assert_array_equal(ops.slice(v, [0, 1], [2, 2]), A[:, 1:])
    np.testing.assert_array_equal(ops.slice_update(np.zeros((2, 3)), (0, 1), np.ones((2, 1))), [[0, 1, 0]] * 2)
    np.testing.assert_array_equal(ops.scatter([[1], [1]], [2.0, 3.0], (3,)), [0, 5, 0])
    np.testing.assert_array_equal(ops.scatter_update(np.zeros(3), [[1]], [7.0]), [0, 7, 0])
    np.testing.assert_array_equal(ops.one_hot([1, 0], 3), [[0, 1, 0], [1, 0, 0]])
    assert ops.one_hot([1, 0], 3, axis=0).shape == (3, 2)
    assert ops.while_loop(lambda i: i < 5, lambda i: i + 2, 0) == 6
    assert ops.while_loop(lambda i, j: i < 5, lambda i, j: (i + 1, j * 2), (0, 1), 3) == (3, 8)
    np.testing.assert_allclose(ops.lstsq(S, S @ S), S, rtol=1e-5)


def test_a_copy_keeps_its_value():
    v = Variable([1.0])
    kept = ops.copy(v), ops.split(v, 1)[0], ops.moveaxis(v, 0, 0)
    v.assign([2.0])
    assert [float(each[0]) for each in kept] == [1, 1, 1]


def test_gradients_follow():
    v = Variable([1.0, 2.0])
    with GradientTape() as tape:
        y = ops.sum(ops.softplus(v)) + ops.sum(ops.tile(v, 2)) + ops.sum(ops.expm1(v)) + ops.logsumexp(v)
    x = np.array([1.0, 2.0])
    expected = 1 / (1 + np.exp(-x)) + 2 + np.exp(x) + np.exp(x) / np.exp(x).sum()
    np.testing.assert_allclose(tape.gradient(y, v), expected, rtol=1e-5)
