"""Sparse gradients in a step: what the overrides see, hooks, dtypes, mixtures with dense ones."""

import numpy as np
import pytest

import distopt
from distopt import IndexedSlices, Variable, optimizers
from distopt.optimizers import legacy


def rows(values, indices, count=4, dtype=np.float32):
    return IndexedSlices(np.array(values, dtype).reshape(len(indices), 1), indices, (count, 1))


def table(count=4, dtype=np.float32):
    return Variable(np.zeros((count, 1), dtype), name="table")


class Recording(legacy.SGD):
    """Notes what it is called with."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
        self.seen.append((grad.ravel().tolist(), indices.tolist(), apply_state is not None))
        return super()._resource_apply_sparse(grad, var, indices, apply_state)


def test_an_override_sees_unique_rows_in_order_of_appearance():
    optimizer, x = Recording(1.0, momentum=0.5), table()
    optimizer.apply_gradients([(rows([1, 2, 4], [3, 0, 3]), x)])
    assert optimizer.seen == [([5, 2], [3, 0], True)]
    np.testing.assert_array_equal(x.numpy().ravel(), [-2, 0, 0, -5])


def test_overriding_the_method_for_repeated_rows():
    class Duplicates(Recording):
        def _resource_apply_sparse_duplicate_indices(self, grad, var, indices, **kwargs):
            self.seen.append((grad.ravel().tolist(), indices.tolist(), "apply_state" in kwargs))
            self._resource_scatter_add(var, indices, -kwargs["apply_state"][var.device, var.dtype]["lr_t"] * grad)

    optimizer, x = Duplicates(0.5), table()
    optimizer.apply_gradients([(rows([1, 2, 4], [3, 0, 3]), x)])
    assert optimizer.seen == [([1, 2, 4], [3, 0, 3], True)]
    np.testing.assert_array_equal(x.numpy().ravel(), [-1, 0, 0, -2.5])


def test_overrides_without_apply_state():
    """Upstream's test_subclass_compat."""
    for base in (legacy.SGD, legacy.Adam, legacy.NonFusedAdam):

        class Old(base):
            def _resource_apply_dense(self, grad, var):
                return super()._resource_apply_dense(grad, var)

            def _resource_apply_sparse(self, grad, var, indices):
                return super()._resource_apply_sparse(grad, var, indices)

        mine, x, y = Old(0.5), table(), Variable([1.0])
        builtin, u, v = base(0.5), table(), Variable([1.0])
        for _ in range(2):
            mine.apply_gradients([(rows([1.0], [1]), x), ([1.0], y)])
            builtin.apply_gradients([(rows([1.0], [1]), u), ([1.0], v)])
        np.testing.assert_array_equal(x.numpy(), u.numpy())
        np.testing.assert_array_equal(y.numpy(), v.numpy())


def test_without_a_sparse_update_nothing_is_changed():
    class DenseOnly(legacy.Optimizer):
        def _resource_apply_dense(self, grad, var, apply_state=None):
            var.assign_sub(grad)

    optimizer, x, y = DenseOnly("dense"), table(), Variable([1.0])
    with pytest.raises(NotImplementedError, match="`_resource_apply_sparse` Must be implemented"):
        optimizer.apply_gradients([([1.0], y), (rows([1], [1]), x)])
    assert (int(optimizer.iterations), float(y[0])) == (0, 1.0)
    optimizer.apply_gradients([([1.0], y)])
    assert float(y[0]) == 0.0


def test_keras_3_overrides_see_indexed_slices():
    seen = []

    class Scatter(optimizers.Optimizer):
        def update_step(self, gradient, variable, learning_rate):
            seen.append((gradient.indices.tolist(), gradient.values.ravel().tolist()))
            self.assign_sub(variable, gradient * learning_rate)

    x = table()
    Scatter(0.5).apply_gradients([(rows([1, 2, 4], [3, 0, 3]), x)])
    assert seen == [([3, 0], [5, 2])]
    np.testing.assert_array_equal(x.numpy().ravel(), [-1, 0, 0, -2.5])


@pytest.mark.parametrize("sgd", [optimizers.SGD, legacy.SGD])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dense_and_sparse_side_by_side(sgd, dtype):
    a, x, b, y = Variable([1.0], dtype=dtype), table(dtype=dtype), Variable([2.0], dtype=dtype), table(dtype=dtype)
    one = np.ones(1, dtype)
    optimizer = sgd(learning_rate=0.5, momentum=0.5)
    for _ in range(2):
        optimizer.apply_gradients([(one, a), (rows([1], [1], dtype=dtype), x), (one, b), (np.ones((4, 1), dtype), y)])
    np.testing.assert_array_equal(x.numpy().ravel(), [0, -1.25, 0, 0])
    np.testing.assert_array_equal(y.numpy().ravel(), [-1.25] * 4)
    assert (float(a[0]), float(b[0])) == (-0.25, 0.75)


@pytest.mark.parametrize("sgd", [optimizers.SGD, legacy.SGD])
def test_a_variable_that_is_sparse_in_one_step_and_dense_in_the_next(sgd):
    x, optimizer = table(), sgd(learning_rate=1.0)
    for gradient in (rows([1], [1]), np.ones((4, 1), np.float32), rows([], np.empty(0, np.int64)), rows([2], [3])):
        optimizer.apply_gradients([(gradient, x)])
    np.testing.assert_array_equal(x.numpy().ravel(), [-1, -2, -1, -3])


@pytest.mark.parametrize("sgd", [optimizers.SGD, legacy.SGD])
def test_hooks_see_and_return_slices(sgd):
    def double(pairs):
        return [(g * 2, v) for g, v in pairs]

    def repeat(pairs):
        (slices, variable), *rest = pairs
        twice = IndexedSlices(np.tile(slices.values, (2, 1)), np.tile(slices.indices, 2), slices.dense_shape)
        return [(twice, variable), *rest]

    x, y = table(), table()
    optimizer = sgd(learning_rate=1.0, gradient_aggregator=double, gradient_transformers=[repeat])
    gradient = rows([1, 3], [0, 2])
    optimizer.apply_gradients([(gradient, x), (np.ones((4, 1), np.float32), y)])
    np.testing.assert_array_equal(x.numpy().ravel(), [-4, 0, -12, 0])
    np.testing.assert_array_equal(y.numpy().ravel(), [-2] * 4)
    np.testing.assert_array_equal(gradient.values.ravel(), [1, 3])


@pytest.mark.parametrize("sgd", [optimizers.SGD, legacy.SGD])
def test_a_hook_may_change_the_kind_of_a_gradient(sgd):
    def swap_kinds(pairs):
        (dense, a), (sparse, b) = pairs
        return [(IndexedSlices(dense[2:3], [2], (4, 1)), a), (sparse.to_dense(), b)]

    x, y = table(), table()
    sgd(learning_rate=1.0, gradient_transformers=[swap_kinds]).apply_gradients(
        [(np.ones((4, 1), np.float32), x), (rows([3], [1]), y)]
    )
    np.testing.assert_array_equal(x.numpy().ravel(), [0, 0, -1, 0])
    np.testing.assert_array_equal(y.numpy().ravel(), [0, -3, 0, 0])


def test_slices_without_a_shape_take_the_variables():
    x = table()
    optimizers.SGD(1.0).apply_gradients([(IndexedSlices([[1.0]], [2]), x)])
    assert float(x[2, 0]) == -1.0
    with pytest.raises(ValueError, match="index 4"):
        optimizers.SGD(1.0).apply_gradients([(IndexedSlices([[1.0]], [4]), x)])
    with pytest.raises(ValueError, match="has shape"):
        optimizers.SGD(1.0).apply_gradients([(IndexedSlices([[1.0]], [2], (9, 1)), x)])


@pytest.mark.parametrize("cls", [optimizers.Adam, legacy.Adam, optimizers.SGD, legacy.SGD])
@pytest.mark.parametrize("shape", [(3,), (0, 2), (3, 0), (2, 2, 2)])
def test_shapes(cls, shape):
    x = Variable(np.ones(shape, np.float32))
    indices = np.arange(min(1, shape[0]))
    optimizer = cls(learning_rate=0.5)
    optimizer.apply_gradients([(IndexedSlices(np.ones((len(indices), *shape[1:]), np.float32), indices, shape), x)])
    expected = np.ones(shape)
    expected[indices] = 0.5
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-5)


def test_the_same_sparse_variable_twice():
    x = table()
    legacy.SGD(1.0, momentum=0.5).apply_gradients([(rows([1], [1]), x), (rows([1], [1]), x)])
    np.testing.assert_array_equal(x.numpy().ravel(), [0, -2.5, 0, 0])


INFINITY = np.float32(np.inf)


@pytest.mark.parametrize("sgd", [optimizers.SGD, legacy.SGD])
@pytest.mark.parametrize("values", [[INFINITY, -INFINITY], [3e38, 3e38]])
def test_equal_rows_whose_sum_is_not_finite_are_no_warning(sgd, values):
    def step():
        x, y = table(), table()
        sparse = rows(values, [1, 1])
        dense = sparse.to_dense() if distopt.replica_index() else sparse
        sgd(learning_rate=1.0).apply_gradients([(sparse, x), (dense, y)])
        return np.isfinite([*x.numpy().ravel(), *y.numpy().ravel()]).tolist()

    for finite in [step(), *distopt.simulate(2, step)]:
        assert finite == [True, False, True, True] * 2


@pytest.mark.parametrize("sgd", [optimizers.SGD, legacy.SGD])
def test_rows_that_overflow_when_they_are_divided_are_no_warning(sgd):
    x, y = table(), table()
    sgd(learning_rate=1.0).apply_gradients([(rows([3e38], [1]), x), (rows([3e38], [1]).to_dense(), y)], items=0.25)
    assert [float(x[1, 0]), float(y[1, 0])] == [-np.inf, -np.inf]
