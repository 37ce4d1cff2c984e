import numpy as np
import pytest
from parallel.caught import assert_same_bits, caught, rough_numbers, tree_sum, warned

import distopt
from distopt import IndexedSlices, Variable
from distopt.errors import InvalidArgumentError
from distopt.optimizers import SGD, Adam, legacy

both_families = pytest.mark.parametrize("family", [SGD, legacy.SGD])
all_families = pytest.mark.parametrize("family", [SGD, Adam, legacy.SGD, legacy.Adam, legacy.NonFusedAdam])


def index():
    return distopt.replica_index()


def triangle(count):
    """The sum of 1 ... count: of the gradients ``index() + 1``."""
    return count * (count + 1) / 2


# The sum


@both_families
def test_gradients_are_summed(replicas, family):
    def step():
        v = Variable(0.0)
        family(learning_rate=0.1).apply_gradients([(np.float32(index() + 1), v)])
        return float(v)

    # Two replicas: -0.3 on both.
    np.testing.assert_allclose(replicas(step), [-0.1 * triangle(replicas.count)] * replicas.count, rtol=1e-6)


@both_families
def test_without_aggregation_replicas_go_their_own_ways(replicas, family):
    def step():
        v = Variable(0.0)
        gradients = [(np.float32(index() + 1), v)]
        family(learning_rate=0.1).apply_gradients(gradients, experimental_aggregate_gradients=False)
        return float(v)

    # Two replicas: -0.1 and -0.2.
    np.testing.assert_allclose(replicas(step), [-0.1 * (r + 1) for r in range(replicas.count)], rtol=1e-6)


@both_families
def test_one_step_over_all_floating_dtypes_and_shapes(replicas, family):
    dtypes, shapes = ("float16", "bfloat16", "float32", "float64"), ((), (1,), (3, 5), (0, 4), (90, 70))

    def step():
        variables = [Variable(np.ones(s), dtype=dtype) for dtype in dtypes for s in shapes]
        gradients = [(np.full(v.shape, index() + 1).astype(v.dtype), v) for v in variables]
        family(learning_rate=0.5).apply_gradients(gradients)
        return [v.numpy().astype(float) for v in variables]

    for values in replicas(step):
        for value in values:
            np.testing.assert_array_equal(value, np.full(value.shape, 1 - 0.5 * triangle(replicas.count)))


@all_families
def test_gradients_of_the_user_are_not_changed(replicas, family):
    def step():
        dense, values = np.full((4, 2), 3.0 + index()), np.full((2, 2), 5.0)
        rows = IndexedSlices(values, [1, 1], (4, 2))
        v, w = Variable(np.zeros((4, 2))), Variable(np.zeros((4, 2)))
        optimizer = family(learning_rate=0.1, clipnorm=0.5)
        for _ in range(2):
            optimizer.apply_gradients([(dense, v), (rows, w)], items=2)
        return dense.tolist(), values.tolist()

    for r, (dense, values) in enumerate(replicas(step)):
        assert dense == [[3.0 + r] * 2] * 4
        assert values == [[5.0] * 2] * 2


@all_families
def test_buffers_are_summed_as_gradients_are(replicas, family):
    def step(own_memory):
        v, w = Variable(np.zeros((2, 3))), Variable(np.zeros(5, np.float32))
        optimizer = family(learning_rate=0.1)
        buffers = optimizer.gradient_buffers([v, w]) if own_memory else [np.empty((2, 3)), np.empty(5, "f4")]
        for k in range(3):
            for buffer in buffers:
                buffer[...] = index() + k
            optimizer.apply_gradients(zip(buffers, [v, w], strict=True))
        return distopt.digest([v, w])

    digests = replicas(step, True) + replicas(step, False)
    assert len(set(digests)) == 1


@both_families
def test_items_divide_by_those_of_all_replicas(replicas, family):
    def step():
        v = Variable(0.0, dtype="float64")
        items = 2 * index()  # none on replica 0
        family(learning_rate=1.0).apply_gradients([(np.float64(10.0 * items), v)], items=items)
        return float(v)

    np.testing.assert_allclose(replicas(step), [-10.0 if replicas.count > 1 else 0.0] * replicas.count)


@both_families
def test_gradients_of_no_items_are_zero(replicas, family):
    def step(streams):
        v, w = Variable(np.ones(2), name="v"), Variable(np.ones((2, 1)), name="w")
        optimizer = family()
        rows = IndexedSlices(np.full((1, 1), float(index() == distopt.num_replicas() - 1)), [1], (2, 1))

        def act(gradient):
            if not streams:
                return optimizer.apply_gradients([(np.zeros(2), v), (gradient, w)], items=0)
            optimizer.begin_step([v, w])
            optimizer.push(w, gradient)
            optimizer.push(v, np.zeros(2))
            return optimizer.end_step(items=0)

        failure = caught(act, rows)
        return failure, int(act(np.zeros((2, 1)))), v.numpy().tolist()

    for streams in (False, True):
        for failure, steps, value in replicas(step, streams):
            assert (failure.kind, steps, value) == (InvalidArgumentError, 1, [1, 1])
            assert "step 0: items=0 on all replicas" in failure.text
            assert f"not zero (seen on replica {replicas.count - 1}: 'w')" in failure.text


@both_families
def test_clipping_sees_the_sum(replicas, family):
    def step():
        v = Variable(np.zeros(2))
        family(learning_rate=1.0, clipnorm=2.0).apply_gradients([(np.array([3.0, 4.0]) * (index() + 1), v)])
        return v.numpy()

    for value in replicas(step):
        np.testing.assert_allclose(value, [-1.2, -1.6])


@both_families
def test_a_variable_listed_twice_is_updated_twice(replicas, family):
    def step():
        v = Variable(0.0)
        optimizer = family(learning_rate=1.0)
        optimizer.apply_gradients([(np.float32(1), v), (np.float32(index()), v)])
        return float(v), int(optimizer.iterations)

    total = replicas.count + triangle(replicas.count - 1)
    assert replicas(step) == [(-total, 1)] * replicas.count


# Gradients that are missing, or sparse, on some replicas only


@all_families
def test_a_missing_gradient_counts_as_zero(several, family):
    def steps(gradient):
        v, w = Variable(np.ones(3)), Variable(np.ones((2, 2)))
        optimizer = family(learning_rate=0.1)
        for k in range(3):
            has_v, has_w = index() == k % 2, index() > 0
            optimizer.apply_gradients([(gradient(has_v, v), v), (gradient(has_w, w), w)])
        return distopt.digest([v, w])

    def zeros_instead(exists, variable):
        return np.full(variable.shape, float(exists) * (index() + 1))

    def none_instead(exists, variable):
        return np.full(variable.shape, index() + 1.0) if exists else None

    assert len(set(several(steps, none_instead) + several(steps, zeros_instead))) == 1


@all_families
def test_a_gradient_that_nobody_has_is_left_out(replicas, family):
    def step():
        v, w, x = (Variable(np.ones(2), name=name) for name in "vwx")
        optimizer = family(learning_rate=0.1)
        optimizer.apply_gradients([(np.ones(2), v), (None, w), (np.ones(2), x)])
        moved = [not np.array_equal(variable.numpy(), np.ones(2)) for variable in (v, w, x)]
        return moved, int(optimizer.iterations)

    results, messages = warned(replicas, step)
    assert results == [([True, False, True], 1)] * replicas.count
    if family.__module__.startswith("distopt.optimizers.legacy"):
        assert messages == []  # that family logs
    else:
        assert len(messages) == 1
        assert "['w']" in messages[0]


@all_families
def test_no_gradient_at_all_is_an_error_everywhere(replicas, family):
    def step():
        v, optimizer = Variable(np.ones(2)), family(learning_rate=0.1)
        failure = caught(optimizer.apply_gradients, [(None, v)])
        optimizer.apply_gradients([(np.ones(2), v)])
        return failure, int(optimizer.iterations)

    for failure, steps in replicas(step):
        assert failure.kind is InvalidArgumentError
        assert "No gradients provided for any variable" in failure.text
        assert steps == 1


def kinds_of_last_step(optimizer_kinds):
    """A transformer that notes whether each gradient is sparse."""

    def spy(pairs):
        optimizer_kinds[:] = [isinstance(gradient, IndexedSlices) for gradient, _ in pairs]
        return pairs

    return spy


@both_families
def test_sparse_here_and_dense_there_is_dense_everywhere(several, family):
    def step():
        kinds = []
        v = Variable(np.zeros((3, 2)))
        rows = IndexedSlices(np.full((2, 2), index() + 1.0), [2, 2], (3, 2))
        gradient = rows if index() != 1 else rows.to_dense()
        optimizer = family(learning_rate=1.0, gradient_transformers=[kinds_of_last_step(kinds)])
        optimizer.apply_gradients([(gradient, v)])
        return kinds, v.numpy().tolist()

    total = -2 * triangle(several.count)
    assert several(step) == [([False], [[0.0, 0.0], [0.0, 0.0], [total, total]])] * several.count


@both_families
def test_sparse_here_and_missing_there_is_sparse_everywhere(several, family):
    def step():
        kinds = []
        v, w = Variable(np.zeros((3, 2))), Variable(np.zeros(2))
        rows = None if index() == 0 else IndexedSlices(np.full((1, 2), 1.0), [index() % 3], (3, 2))
        optimizer = family(learning_rate=1.0, gradient_transformers=[kinds_of_last_step(kinds)])
        optimizer.apply_gradients([(rows, v), (np.ones(2), w)])
        return kinds, v.numpy()

    expected = np.zeros((3, 2))
    for r in range(1, several.count):
        expected[r % 3] -= 1
    for kinds, value in several(step):
        assert kinds == [True, False]
        np.testing.assert_array_equal(value, expected)


@both_families
def test_sparse_rows_of_all_replicas_are_added(replicas, family):
    def step():
        v = Variable(np.zeros((5, 2), np.float32))
        rows = IndexedSlices(np.full((3, 2), index() + 1, np.float32), [index() % 5, 4, 4], (5, 2))
        family(learning_rate=0.5).apply_gradients([(rows, v)])
        return v.numpy()

    expected = np.zeros((5, 2), np.float32)
    for r in range(replicas.count):
        for row in (r % 5, 4, 4):
            expected[row] -= 0.5 * (r + 1)
    for value in replicas(step):
        np.testing.assert_array_equal(value, expected)


@all_families
def test_rows_are_added_in_the_tree_of_the_replicas(replicas, family):
    def step(sparse):
        v = Variable(np.zeros((2, 50)), dtype="float32")
        mine = rough_numbers(index(), 50, np.float32)
        gradient = IndexedSlices(mine[None], [1], (2, 50)) if sparse else np.stack([np.zeros_like(mine), mine])
        seen = []
        # Legacy optimizers add rows after their transformers, the others before.
        optimizer = family(learning_rate=0.5, gradient_transformers=[lambda pairs: seen.extend(pairs) or pairs])
        optimizer.apply_gradients([(gradient, v)])
        ((aggregate, _),) = seen
        return aggregate.to_dense()[1] if sparse else aggregate[1].copy()

    expected = tree_sum([rough_numbers(r, 50, np.float32) for r in range(replicas.count)])
    for aggregate in replicas(step, True) + replicas(step, False):
        assert_same_bits(aggregate, expected)
