"""Variables: memory, names, assignment, ownership, and reading as an array."""

from __future__ import annotations

import copy
import pickle
import threading

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import distopt
from distopt import IndexedSlices, Variable
from distopt.constraints import NonNeg
from distopt.errors import ForeignVariableError, InvalidArgumentError
from distopt.process.replica import Replica, enter_replica

FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def in_replica(function, name="replica 1"):
    """Run a function as another replica does, in its own thread; return its result or its exception."""
    outcome = []

    def run():
        enter_replica(Replica(name))
        try:
            outcome.append(function())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return outcome[0]


class TestConstruction:
    @pytest.mark.parametrize("value", [2, 2.0, True, [1, 2], [[1.0], [2.0]], (0.5, 1)])
    def test_numbers_of_python_become_float32(self, value):
        variable = Variable(value)
        assert variable.dtype == np.float32
        np.testing.assert_array_equal(variable.numpy(), np.float32(value))

    @pytest.mark.parametrize("dtype", [*FLOATS, np.int64, np.bool_])
    def test_arrays_keep_their_dtype(self, dtype):
        assert Variable(np.ones(3, dtype)).dtype == dtype
        assert Variable(np.ones(3, dtype)[0]).dtype == dtype

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64"])
    def test_dtype_by_name(self, dtype):
        variable = Variable([1.0, 2.0], dtype=dtype)
        assert variable.dtype.name == dtype
        np.testing.assert_array_equal(variable.numpy().astype("f8"), [1, 2])

    def test_the_value_is_a_contiguous_copy(self):
        source = np.arange(6.0).reshape(2, 3).T
        variable = Variable(source)
        source[:] = 0
        assert variable.value.flags.c_contiguous
        np.testing.assert_array_equal(variable, np.arange(6.0).reshape(2, 3).T)

    def test_a_callable_is_called_and_a_variable_is_copied(self):
        first = Variable(lambda: np.zeros((2, 2)))
        second = Variable(first)
        second.assign(np.ones((2, 2)))
        assert first.shape == (2, 2)
        assert first.numpy().sum() == 0

    @pytest.mark.parametrize("value", ["text", [[1.0], [1.0, 2.0]], None, np.array(["a"]), object()])
    def test_what_is_no_number_is_refused(self, value):
        with pytest.raises(InvalidArgumentError, match="variable 'w'"):
            Variable(value, name="w")

    def test_a_fraction_in_an_integer_variable_is_refused(self):
        with pytest.raises(InvalidArgumentError, match=r"'steps'.*int64.*float32"):
            Variable(2.5, dtype="int64", name="steps")

    def test_a_constraint_must_be_callable(self):
        with pytest.raises(InvalidArgumentError, match="NonNeg"):
            Variable(1.0, constraint="non_neg")

    def test_names_are_counted_per_replica_and_users_names_kept(self):
        def names():
            return [
                Variable(1.0).name,
                Variable(1.0, name="w").path,
                Variable(1.0).path,
                Variable(1.0, name="w").name,
            ]

        expected = ["variable", "w", "variable_1", "w"]
        assert in_replica(names) == expected
        assert in_replica(names) == expected


class TestReading:
    def test_attributes_of_an_array(self):
        v = Variable(np.ones((3, 4)))
        assert (v.shape, v.ndim, v.size, v.nbytes, v.itemsize, len(v)) == ((3, 4), 2, 12, 96, 8, 3)
        assert v.T.shape == (4, 3)
        assert v.device == "CPU:0"
        assert v.trainable
        assert v.constraint is None

    def test_numpy_expressions_see_the_value(self):
        array = np.array([[1.0, 2.0], [3.0, 4.0]], "f4")
        v = Variable(array)
        for got, expected in [
            (3 * v * v + 1, 3 * array * array + 1),
            (array @ v, array @ array),
            (np.float32(2) - v, np.float32(2) - array),
            (np.concatenate([v, v]), np.concatenate([array, array])),
            (np.where(v > 2, v, 0), np.where(array > 2, array, 0)),
            (np.einsum("ij,jk", v, v), array @ array),
            (np.linalg.norm(v), np.linalg.norm(array)),
            (np.add.reduce(v), array.sum(axis=0)),
            (v == array, np.ones((2, 2), bool)),
            (v[1], array[1]),
            (v[:, 0], array[:, 0]),
            (v[[1, 0]], array[[1, 0]]),
            (np.stack(list(v)), array),
            (v.mean(axis=0), array.mean(axis=0)),
            (v.reshape(-1), array.reshape(-1)),
            (abs(-v), array),
        ]:
            np.testing.assert_array_equal(got, expected)
            assert got.dtype == expected.dtype

    def test_a_variable_indexes_and_counts(self):
        step = Variable(2, dtype="int64")
        assert [10, 20, 30][step] == 30
        assert list(range(step)) == [0, 1]

    def test_numbers_and_formats(self):
        v = Variable(2.5)
        assert (float(v), int(v), bool(v), f"{v:.3f}", v.item()) == (2.5, 2, True, "2.500", 2.5)
        assert f"{Variable(2.5, dtype='bfloat16'):.3f}" == "2.500"

    def test_repr(self):
        assert repr(Variable(np.ones((3, 4), "f4"), name="W")) == "<Variable 'W' shape=(3, 4) dtype=float32>"
        assert "value=[1. 2.]" in repr(Variable([1.0, 2.0]))

    def test_value_is_live_and_read_only_and_numpy_is_a_copy(self):
        v = Variable([1.0, 2.0])
        view, taken = v.value, v.numpy()
        v.assign([3.0, 4.0])
        np.testing.assert_array_equal(view, [3, 4])
        np.testing.assert_array_equal(taken, [1, 2])
        for read_only in (view, v.reshape(-1)):
            with pytest.raises(ValueError, match="read-only"):
                read_only[0] = 9

    def test_identity_is_the_key(self):
        a, b = Variable([1.0, 1.0]), Variable([1.0, 1.0])
        assert {a: "a", b: "b"}[b] == "b"
        assert {a.ref(): "a", b.ref(): "b"}[a.ref()] == "a"
        assert a.ref() == a.ref() != b.ref()
        assert a.ref().deref() is a

    def test_unknown_attributes_are_errors(self):
        with pytest.raises(AttributeError):
            _ = Variable(1.0).fill


class TestAssignment:
    def test_the_three_assignments_return_the_variable(self):
        v = Variable([1.0, 2.0])
        assert v.assign([5.0, 6.0]) is v
        assert v.assign_add(np.array([1, 1])) is v
        assert v.assign_sub(Variable([2.0, 0.0]), use_locking=True) is v
        np.testing.assert_array_equal(v, [4, 7])
        assert v.dtype == np.float32

    @pytest.mark.parametrize("method", ["assign", "assign_add", "assign_sub"])
    @pytest.mark.parametrize("value", [1.0, [1.0], np.ones((2, 1)), np.ones(3)])
    def test_other_shapes_are_refused_by_name(self, method, value):
        v = Variable([1.0, 2.0], name="w")
        with pytest.raises(InvalidArgumentError, match=rf"{method}.*'w'.*\(2,\).*broadcast"):
            getattr(v, method)(value)
        np.testing.assert_array_equal(v, [1, 2])

    def test_unknown_keywords_are_refused(self):
        with pytest.raises(TypeError):
            Variable(1.0).assign(2.0, validate_shape=False)

    @pytest.mark.parametrize("value", [2.5, np.nan, np.inf, 1j])
    def test_integers_take_no_fractions(self, value):
        steps = Variable(1, dtype="int64", name="steps")
        with pytest.raises(InvalidArgumentError, match="steps"):
            steps.assign(np.asarray(value))
        assert int(steps.assign(3.0)) == 3

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_rows_are_summed_before_they_are_added(self, dtype):
        v = Variable(np.full((4, 2), 10, dtype))
        rows = IndexedSlices(np.array([[1, 2], [3, 4], [5, 6]], dtype), [3, 0, 3], (4, 2))
        v.assign_add(rows)
        np.testing.assert_array_equal(v.numpy().astype("f4"), [[13, 14], [10, 10], [10, 10], [16, 18]])
        v.assign_sub(rows)
        np.testing.assert_array_equal(v.numpy().astype("f4"), np.full((4, 2), 10))

    def test_rows_of_another_variable_are_refused(self):
        with pytest.raises(InvalidArgumentError, match="index 7"):
            Variable(np.zeros((4, 2))).assign_add(IndexedSlices(np.zeros((1, 2)), [7]))

    def test_writing_in_place_names_the_cure(self):
        v, array = Variable([1.0, 2.0], name="w"), np.zeros(2)
        with pytest.raises(InvalidArgumentError, match=r"'w'.*assign_add"):
            v += 1
        with pytest.raises(InvalidArgumentError, match="assign"):
            v[0] = 1
        with pytest.raises(InvalidArgumentError, match="assign"):
            np.add(array, 1, out=v)
        with pytest.raises(InvalidArgumentError, match="assign"):
            np.sum(np.ones((2, 2)), axis=0, out=v)
        np.testing.assert_array_equal(v, [1, 2])

    def test_an_array_may_grow_by_a_variable(self):
        array = np.zeros(2, "f4")
        array += Variable([1.0, 2.0])
        np.testing.assert_array_equal(array, [1, 2])

    @given(
        st.sampled_from(FLOATS),
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=4).flatmap(
            lambda shape: st.tuples(*[hnp.arrays(np.float32, shape, elements=st.floats(-100, 100, width=16))] * 2)
        ),
    )
    def test_assignment_is_the_arithmetic_of_numpy(self, dtype, arrays):
        x, y = (array.astype(dtype) for array in arrays)
        v = Variable(x)
        assert v.assign_add(y).numpy().tobytes() == (x + y).tobytes()
        assert v.assign_sub(y).numpy().tobytes() == ((x + y) - y).tobytes()
        assert v.assign(y).numpy().tobytes() == y.tobytes()


class TestMemory:
    def test_place_adopts_the_memory_of_an_arena(self):
        arena = np.zeros(8, "f4")
        v = Variable(np.arange(6.0, dtype="f4").reshape(2, 3))
        v.storage.move_to(arena[1:7].reshape(2, 3))
        np.testing.assert_array_equal(arena, [0, 0, 1, 2, 3, 4, 5, 0])
        arena[1] = 9
        assert v.value[0, 0] == 9
        v.assign_add(np.ones((2, 3)))
        assert arena[1] == 10
        with pytest.raises(RuntimeError, match="once"):
            v.storage.move_to(arena[1:7].reshape(2, 3))

    @pytest.mark.parametrize("clone", [copy.deepcopy, copy.copy, lambda v: pickle.loads(pickle.dumps(v))])
    def test_copies_are_independent_and_lie_nowhere(self, clone):
        v = Variable([1.0, 2.0], name="w", trainable=False, constraint=NonNeg(), dtype="bfloat16")
        v.storage.move_to(np.zeros(2, v.dtype))
        other = clone(v)
        other.assign([5.0, 5.0])
        np.testing.assert_array_equal(v.numpy().astype("f4"), [1, 2])
        assert (other.name, other.trainable, other.dtype) == ("w", False, v.dtype)
        assert other.storage.array.base is None
        assert isinstance(other.constraint, NonNeg)


class TestOwnership:
    @pytest.mark.parametrize(
        "use",
        [
            lambda v: v.value,
            lambda v: v.numpy(),
            lambda v: v + 1,
            lambda v: np.sum(v),
            lambda v: v.sum(),
            lambda v: v[0],
            lambda v: float(v[0]),
            lambda v: np.asarray(v),
            lambda v: v.assign([1.0, 1.0]),
            lambda v: v.assign_add([1.0, 1.0]),
            lambda v: Variable([0.0, 0.0]).assign(v),
            lambda v: Variable(v),
            copy.deepcopy,
        ],
    )
    def test_use_by_another_replica_is_an_error(self, use):
        v = Variable([1.0, 2.0], name="w")
        error = in_replica(lambda: use(v))
        assert isinstance(error, ForeignVariableError)
        assert "'w' was made by this process and is used by replica 1" in str(error)
        assert "inside the function given to simulate" in str(error)
        np.testing.assert_array_equal(v, [1, 2])

    def test_it_may_be_printed_anywhere(self):
        v = Variable([1.0, 2.0], name="w")
        assert "'w'" in in_replica(lambda: repr(v))


def test_what_was_read_before_a_step_does_not_change_with_it():
    w = Variable(np.zeros(4, "float32"))
    sgd = distopt.optimizers.SGD(1.0)
    sgd.apply_gradients([(np.ones(4), w)])
    before = [np.asarray(w), w[:2], w.read_value(), w.numpy(), w[...]]
    live = w.value
    sgd.apply_gradients([(np.ones(4), w)])
    for snapshot in before:
        np.testing.assert_array_equal(snapshot, -1)
    np.testing.assert_array_equal(live, -2)


def test_numbers_are_assigned_in_the_variables_precision():
    v = Variable(np.zeros(2))
    v.assign([0.1, 0.2])
    assert v.numpy().tolist() == [0.1, 0.2]
    assert float(Variable(np.float64(0)).assign_add(0.1)) == 0.1
