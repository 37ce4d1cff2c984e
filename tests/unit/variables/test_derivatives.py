"""GradientTape: derivatives of one tape's own gradients, Jacobians, and sources without a gradient."""

from __future__ import annotations

import numpy as np
import pytest
from autograd.extend import defvjp, primitive

from distopt import GradientTape, Variable
from distopt.errors import InvalidArgumentError, UntraceableError
from distopt.gradients import UnconnectedGradients
from distopt.optimizers import SGD
from distopt.process.replica import current_replica

X = np.random.default_rng(0).normal(size=(3, 4))


def gradient(loss, sources):
    with GradientTape() as tape:
        value = loss()
    return tape.gradient(value, sources)


class TestSecondOrderOfOneTape:
    """Line 5: a persistent tape follows the gradients that it computes inside of its block."""

    def test_the_second_derivative_of_a_cube(self):
        x = Variable([1.0, 2.0])
        with GradientTape(persistent=True) as tape:
            y = x**3
            slope = tape.gradient(y, x)
        np.testing.assert_array_equal(slope, [3, 12])
        np.testing.assert_array_equal(tape.gradient(slope, x), [6, 12])

    def test_the_third_derivative(self):
        x = Variable(2.0)
        with GradientTape(persistent=True) as tape:
            y = x**4
            dy = tape.gradient(y, x)
            ddy = tape.gradient(dy, x)
        assert [float(dy), float(ddy), float(tape.gradient(ddy, x))] == [32, 48, 48]

    def test_hessian_vector_product_of_a_network(self):
        rng = np.random.default_rng(3)
        w, v = Variable(rng.normal(size=(4, 3))), rng.normal(size=(4, 3))

        def loss():
            return np.mean(np.log(np.sum(np.exp(np.tanh(X @ w)), axis=1)))

        with GradientTape() as outer:
            product = np.sum(gradient(loss, w) * v)
        with GradientTape(persistent=True) as tape:
            own = np.sum(tape.gradient(loss(), w) * v)
        np.testing.assert_allclose(tape.gradient(own, w), outer.gradient(product, w), rtol=1e-12)

    def test_through_rows(self):
        table = Variable([[1.0, 2.0], [3.0, 4.0]])
        with GradientTape(persistent=True) as tape:
            g = tape.gradient(np.sum(table[[1, 1]] ** 3), table)
        np.testing.assert_array_equal(tape.gradient(g, table).to_dense(), [[0, 0], [36, 48]])

    def test_rows_come_in_the_order_of_the_program(self):
        table = Variable(np.ones((4, 1)))

        def loss():
            return np.sum(table[[3, 1]]) + 2 * np.sum(table[[0, 3]])

        with GradientTape(persistent=True) as tape:
            inside = tape.gradient(loss(), table)
        plain = gradient(loss, table)
        np.testing.assert_array_equal(inside.indices, plain.indices)
        np.testing.assert_array_equal(inside.values, plain.values)

    def test_mixed_derivatives(self):
        a, b = Variable(2.0), Variable(3.0)
        with GradientTape(persistent=True) as tape:
            da = tape.gradient(a * a * b, a)
        assert [float(g) for g in tape.gradient(da, [a, b])] == [6, 4]

    def test_a_persistent_tape_around_another(self):
        x = Variable(2.0)
        with GradientTape(persistent=True) as outer:
            with GradientTape(persistent=True) as inner:
                y = x**4
                dy = inner.gradient(y, x)
            ddy = inner.gradient(dy, x)
        assert [float(outer.gradient(g, x)) for g in (y, dy, ddy)] == [32, 48, 48]

    def test_a_gradient_computed_after_the_block_is_refused(self):
        x = Variable([1.0, 2.0])
        with GradientTape(persistent=True) as tape:
            y = x**3
        slope = tape.gradient(y, x)
        assert type(slope) is np.ndarray
        with pytest.raises(InvalidArgumentError, match="inside of the persistent tape's block"):
            tape.gradient(slope, x)

    def test_what_has_no_second_derivative_is_named(self):
        @primitive
        def power(x):
            return x ** (4 / 3)

        defvjp(power, lambda ans, x: lambda g: g * 4 / 3 * np.cbrt(x))
        x = Variable([1.0, 8.0])
        with GradientTape(persistent=True) as tape:
            y = power(x * 1)
            with pytest.raises(UntraceableError, match=r"power .*np\.cbrt of a traced value has no derivative"):
                tape.gradient(y, x)
        np.testing.assert_allclose(tape.gradient(y, x), [4 / 3, 8 / 3], rtol=1e-6)

    def test_a_gradient_that_there_is_none_of_is_refused(self):
        x = Variable([1.0, 2.0])
        with GradientTape(persistent=True) as tape:
            g = tape.gradient(np.sign(x), x)
            assert g is None
            with pytest.raises(InvalidArgumentError, match=r"The target of tape\.gradient is None"):
                tape.gradient(g, x)

    def test_an_optimizer_takes_it_inside_of_the_block(self):
        x = Variable([1.0, 2.0])
        with GradientTape(persistent=True) as tape:
            g = tape.gradient(np.sum(x**2), x)
            SGD(0.5).apply_gradients([(g, x)])
        np.testing.assert_array_equal(x, [0, 0])


class TestAsInTensorFlow:
    def test_unconnected_gradients(self):
        x, other = Variable([1.0, 2.0]), Variable(np.ones((2, 3)))
        with GradientTape(persistent=True) as tape:
            y = x * 2
        assert tape.gradient(y, [other]) == [None]
        for zero in ("zero", UnconnectedGradients.ZERO):
            (zeros,) = tape.gradient(y, [other], unconnected_gradients=zero)
            np.testing.assert_array_equal(zeros, np.zeros((2, 3)))
        with pytest.raises(InvalidArgumentError, match='"none"'):
            tape.gradient(y, x, unconnected_gradients="nothing")

    def test_sources_in_a_dict(self):
        x, z = Variable(2.0), Variable(3.0)
        with GradientTape() as tape:
            y = x * z
        gradients = tape.gradient(y, {"z": z, "x": [x]})
        assert float(gradients["z"]) == 2
        assert float(gradients["x"][0]) == 3

    def test_a_gradient_inside_of_the_block_ends_the_record(self):
        x = Variable(2.0)
        with GradientTape() as tape:
            assert float(tape.gradient(x * x, x)) == 4
            assert type(x * 2) is np.float32
        assert current_replica().tapes == []

    def test_jacobian(self):
        rng = np.random.default_rng(0)
        w, b, unread = Variable(rng.normal(size=(4, 2))), Variable(rng.normal(size=2)), Variable([1.0, 2.0])
        with GradientTape(persistent=True) as tape:
            y = X @ w + b
        dw, [db, none] = tape.jacobian(y, [w, [b, unread]])
        np.testing.assert_allclose(dw, np.einsum("ni,oj->noij", X, np.eye(2)))
        np.testing.assert_array_equal(db, np.broadcast_to(np.eye(2), (3, 2, 2)))
        assert none is None
        zeros = tape.jacobian(y, unread, unconnected_gradients="zero")
        np.testing.assert_array_equal(zeros, np.zeros((3, 2, 2)))
        with pytest.raises(InvalidArgumentError, match="jacobian received list"):
            tape.jacobian([y], w)

    def test_a_jacobian_spends_a_tape_that_is_not_persistent(self):
        x = Variable([1.0, 2.0])
        with GradientTape() as tape:
            y = x * x
        np.testing.assert_array_equal(tape.jacobian(y, x), np.diag([2, 4]))
        with pytest.raises(RuntimeError, match="persistent=True"):
            tape.jacobian(y, x)

    def test_jacobian_of_rows_is_dense(self):
        table = Variable([[1.0], [2.0], [3.0]])
        with GradientTape() as tape:
            y = table[[2, 0]]
        assert tape.jacobian(y, table)[:, 0, :, 0].tolist() == [[0, 0, 1], [1, 0, 0]]

    def test_the_hessian_is_the_jacobian_of_the_gradient(self):
        x = Variable([1.0, 2.0, 3.0])
        with GradientTape() as outer:
            with GradientTape() as inner:
                y = np.sum(x**3) + x[0] * x[1]
            g = inner.gradient(y, x)
        np.testing.assert_allclose(outer.jacobian(g, x), [[6, 1, 0], [1, 12, 0], [0, 0, 18]], rtol=1e-6)
        with GradientTape(persistent=True) as tape:
            cubes = tape.jacobian(x**3, x)
        assert tape.jacobian(cubes, x)[2, 2, 2] == 18

    def test_batch_jacobian(self):
        x = Variable([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        with GradientTape(persistent=True) as tape:
            y = np.stack([x[:, 0] * x[:, 1], x[:, 1] ** 2, x[:, 0]], axis=1)
            apart = np.ones((3, 4)) * np.sum(y)
        full = tape.jacobian(y, x)
        rows = tape.batch_jacobian(y, x)
        np.testing.assert_array_equal(rows, np.stack([full[i, :, i] for i in range(3)]))
        unread = Variable(np.ones((3, 2)))
        np.testing.assert_array_equal(tape.batch_jacobian(apart, unread), np.zeros((3, 4, 2)))
        with pytest.raises(InvalidArgumentError, match="first axis"):
            tape.batch_jacobian(y, Variable(np.ones((2, 2))))
