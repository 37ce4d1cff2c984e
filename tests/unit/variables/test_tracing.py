"""Traced values: they read as numbers, and what cannot be traced is refused by name."""

from __future__ import annotations

import autograd
import autograd.numpy as anp
import ml_dtypes
import numpy as np
import pytest

import distopt
from distopt import GradientTape, Variable
from distopt.errors import InvalidArgumentError, UntraceableError

X = np.ones((3, 3), "f4")


@pytest.fixture
def tape():
    with GradientTape() as tape:
        yield tape


@pytest.fixture
def w():
    return Variable(np.eye(3, dtype="f4") + 0.5, name="w")


class TestAsANumber:
    def test_conversions_inside_and_after_the_block(self):
        v = Variable(2.5)
        with GradientTape():
            y = v * 2
            inside = float(y)
        for value in (inside, float(y), y.item(), y.numpy(), int(y), y.tolist()):
            assert value == 5
        assert f"{y:.3f} {y:>6.1f} {y}" == "5.000    5.0 5.0"
        assert bool(y)
        assert "traced" in repr(y)
        assert type(y.item()) is float

    def test_comparisons_are_plain(self, tape):
        y = Variable([1.0, 3.0]) * 1
        for got, expected in [
            (y > 2, [0, 1]),
            (y <= 1, [1, 0]),
            (y > 2, [0, 1]),
            (y == 1, [1, 0]),
            (y != 1, [0, 1]),
        ]:
            assert type(got) is np.ndarray
            np.testing.assert_array_equal(got, np.array(expected, bool))
        assert (1.0 if np.sum(y) > 3 else 0.0) == 1.0

    def test_attributes(self, tape, w):
        y = w * 1
        assert (y.shape, y.ndim, y.size, y.dtype, len(y)) == ((3, 3), 2, 9, np.float32, 3)
        assert y.argmax() == 0
        assert np.shape(y) == (3, 3)
        assert not np.isnan(y).any()
        assert type(np.zeros_like(y)) is np.ndarray
        assert type(y.astype("int64")) is np.ndarray
        assert {y: 1}[y] == 1

    def test_numpy_is_a_copy(self, tape, w):
        w_traced = w * 1
        w_traced.numpy()[:] = 9
        assert float(w_traced[0, 0]) == 1.5

    def test_sixteen_bit_scalars_are_traced(self, tape):
        total = np.sum(Variable([1.0, 2.0], dtype="bfloat16"))
        assert total.dtype == ml_dtypes.bfloat16
        assert f"{total:.2f}" == "3.00"

    def test_history_may_be_filled_after_the_block(self, w):
        with GradientTape():
            y = np.sum(w)
        history = np.zeros(2)
        history[0] = y
        assert history[0] == 7.5


def _store(y):
    array = np.zeros(3)
    array[0] = y[0, 0]


def _store_row(y):
    array = np.zeros((3, 3))
    array[0] = y[0]


def _grow(y):
    array = np.zeros((3, 3))
    array += y


def _assign_item(y):
    y[0] = 1


REFUSED = {
    "asarray": lambda y: np.asarray(y),
    "array of values": lambda y: np.array([y[0, 0], y[0, 1]]),
    "sum of a list": lambda y: np.sum([y[0, 0], y[0, 1]]),
    "row assignment": _store_row,
    "assignment into it": _assign_item,
    "+= on an array": _grow,
    "out of a ufunc": lambda y: np.add(y, 1, out=np.zeros((3, 3))),
    "out of a function": lambda y: np.sum(y, axis=0, out=np.zeros(3)),
    "ufunc method": lambda y: np.add.reduce(y),
    "outer of a ufunc": lambda y: np.multiply.outer(y, y),
    "no derivative": lambda y: np.median(y),
    "no derivative of that argument": lambda y: np.interp(0.5, [0.0, 1.0, 2.0], y[0]),
    "not for this mode": lambda y: np.pad(y, 1, mode="edge"),
    "overlooked where": lambda y: np.sum(y, where=y > 0),
    "overlooked initial": lambda y: y.max(initial=5.0),
    "overlooked correction": lambda y: np.var(y, correction=1),
    "keyword of a ufunc": lambda y: np.exp(y, dtype="f8"),
    "keyword": lambda y: np.sum(a=y),
    "inside of lists": lambda y: np.block([[y, y]]),
    "calls itself": lambda y: np.select([X > 0], [y]),
    "fill": lambda y: np.full(3, y[0, 0]),
    "sort in place": lambda y: y.sort(),
    "attribute": lambda y: y.real,
    "sort of rows": lambda y: np.sort(y, axis=0),
    "unknown keyword": lambda y: np.concatenate([y, y], dtype="f8"),
    "testing": lambda y: np.testing.assert_allclose(y, X),
}


class TestRefusals:
    @pytest.mark.parametrize("name", REFUSED)
    def test_an_operation_that_loses_the_gradient_names_itself_and_the_cure(self, tape, w, name):
        with pytest.raises(UntraceableError, match=r"^np\.[a-z_.]+ of a traced value .*gradient would be lost\. [A-Z]"):
            REFUSED[name](w * 1)

    def test_storing_an_element_is_refused(self, tape, w):
        with pytest.raises(ValueError, match="setting an array element") as refusal:  # NumPy's own text
            _store(w * 1)
        assert isinstance(refusal.value.__cause__, UntraceableError)
        assert "np.stack" in str(refusal.value.__cause__)

    def test_the_name_is_that_of_the_function(self, tape, w):
        with pytest.raises(UntraceableError, match=r"np\.median .*stop_gradient"):
            np.median(w)

    def test_a_watched_variable_does_not_become_an_array(self, w):
        with GradientTape(), pytest.raises(UntraceableError, match="numpy"):
            np.asarray(w)
        np.testing.assert_array_equal(np.asarray(w), w.value)

    def test_writing_a_variable_in_place_is_refused_under_a_tape_too(self, tape, w):
        with pytest.raises(InvalidArgumentError, match="assign_add"):
            w += X

    def test_unknown_attributes(self, tape, w):
        with pytest.raises(AttributeError, match="backward"):
            (w * 1).backward()

    def test_autograd_itself_is_refused_inside_of_a_tape(self, tape, w):
        with pytest.raises(UntraceableError, match="autograd"):
            anp.dot(w * 1, w)
        with pytest.raises(UntraceableError, match="autograd"):
            autograd.grad(lambda x: anp.sum(x * x))(w * 1)

    def test_autograd_itself_still_works(self):
        np.testing.assert_array_equal(autograd.grad(lambda x: anp.sum(x * x))(np.ones(2)), [2, 2])


class TestOnceTheTapeIsClosed:
    """Line 18: the loss that people print is a share, and what mends that takes traced values."""

    @pytest.fixture
    def v(self):
        x = Variable([1.0, 2.0, 3.0])
        with GradientTape():
            return x * 2

    @pytest.mark.parametrize(
        ("call", "value"),
        [
            (lambda v: distopt.all_reduce(np.sum(v)), 12),
            (lambda v: distopt.all_reduce(list(v)), [2, 4, 6]),
            (distopt.all_gather, [[2, 4, 6]]),
            (distopt.broadcast, [2, 4, 6]),
            (lambda v: np.mean([v[0], v[1]]), 3),
            (np.asarray, [2, 4, 6]),
            (np.median, 4),
            (lambda v: np.quantile(v, 0.5), 4),
            (lambda v: np.add.reduce(v), 12),
            (lambda v: np.add(v, 1, out=np.zeros(3)), [3, 5, 7]),
            (lambda v: np.sum(v, where=[True, False, True]), 8),
            (lambda v: np.linalg.norm(v, ord=np.inf), 6),
            (lambda v: round(v[0] / 3, 2), 0.67),
            (lambda v: np.frombuffer(v.tobytes(), "f4"), [2, 4, 6]),
        ],
    )
    def test_collectives_and_numpy_take_traced_values(self, v, call, value):
        np.testing.assert_allclose(call(v), value, rtol=1e-6)

    def test_nothing_is_written_into_them(self, v):
        with pytest.raises(ValueError, match="read-only"):
            v.fill(0)
        np.testing.assert_array_equal(v, [2, 4, 6])

    def test_a_persistent_tape_follows_what_it_can(self):
        x = Variable(3.0)
        with GradientTape(persistent=True) as tape:
            y = x * x
        assert tape.gradient(y * 2, x) == 12

    def test_an_open_tape_around_the_closed_one_still_refuses(self):
        x = Variable([1.0, 2.0])
        with GradientTape():
            with GradientTape():
                y = x * 2
            for call in (distopt.all_reduce, np.asarray, np.median, np.add.reduce, lambda y: y.tobytes()):
                with pytest.raises(UntraceableError):
                    call(y)
        np.testing.assert_array_equal(y, [2, 4])
