"""GradientTape: its life, what it watches, derivatives of higher order, and replicas."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

from distopt import GradientTape, Variable
from distopt.errors import ForeignVariableError, InvalidArgumentError
from distopt.process.replica import Replica, current_replica, enter_replica

X = np.random.default_rng(0).normal(size=(3, 4))


def gradient(loss, sources):
    with GradientTape() as tape:
        value = loss()
    return tape.gradient(value, sources)


class TestTapes:
    def test_a_second_call_needs_a_persistent_tape(self):
        w = Variable(2.0)
        with GradientTape() as tape:
            y = w * w
        assert float(tape.gradient(y, w)) == 4
        with pytest.raises(RuntimeError, match="persistent=True"):
            tape.gradient(y, w)
        with GradientTape(persistent=True) as tape:
            y = w * w
        assert [float(tape.gradient(y, w)) for _ in range(3)] == [4, 4, 4]

    def test_a_tape_is_opened_once_and_before_use(self):
        tape = GradientTape()
        with pytest.raises(RuntimeError, match="never opened"):
            tape.gradient(1.0, [])
        with pytest.raises(RuntimeError, match="inside of"):
            tape.watch(1.0)
        with tape:
            pass
        with pytest.raises(RuntimeError, match="new GradientTape"), tape:
            pass
        with pytest.raises(RuntimeError, match="inside of"):
            tape.watch(1.0)

    def test_an_exception_closes_the_tape(self):
        with pytest.raises(ZeroDivisionError), GradientTape():
            _ = 1 / 0
        assert current_replica().tapes == []
        assert isinstance(Variable(1.0) * 2, np.generic)

    def test_watching(self):
        frozen, free, unread = Variable(2.0, trainable=False), Variable(3.0), Variable(1.0)
        with GradientTape(persistent=True) as tape:
            y = frozen * free
        assert tape.gradient(y, frozen) is None
        assert tape.watched_variables() == (free,)
        with GradientTape() as tape:
            tape.watch([frozen, unread])
            y = frozen * free
        assert [g if g is None else float(g) for g in tape.gradient(y, [frozen, free, unread])] == [
            3,
            2,
            None,
        ]
        assert tape.watched_variables() == (frozen, unread, free)
        with GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(frozen)
            y = frozen * free
        assert [g if g is None else float(g) for g in tape.gradient(y, [frozen, free])] == [3, None]

    def test_watching_an_array(self):
        x = np.array([1.0, 2.0])
        with GradientTape() as tape:
            traced = tape.watch(x)
            assert tape.watch(traced) is traced
            y = np.sum(traced**2)
        np.testing.assert_array_equal(tape.gradient(y, traced), [2, 4])
        with GradientTape() as tape:
            tape.watch(x)
            y = np.sum(x**2)
        with pytest.raises(InvalidArgumentError, match=r"x = tape\.watch\(x\)"):
            tape.gradient(y, x)
        with GradientTape() as tape, pytest.raises(InvalidArgumentError, match="int64"):
            tape.watch(np.array([1, 2]))

    def test_integer_variables_have_no_gradient(self):
        steps, w = Variable(3, dtype="int64"), Variable(2.0)
        with GradientTape() as tape:
            tape.watch(steps)
            y = w * steps
        grads = tape.gradient(y, [w, steps])
        assert float(grads[0]) == 3
        assert grads[1] is None

    def test_a_variable_written_after_it_was_read_is_an_error(self):
        w, other = Variable(2.0, name="w"), Variable(1.0)
        with GradientTape(persistent=True) as tape:
            y = w * w
            z = other * 3
        w.assign(5.0)
        with pytest.raises(InvalidArgumentError, match="'w' was written after the tape had read it"):
            tape.gradient(y, w)
        assert float(tape.gradient(z, other)) == 3

    def test_constants_of_a_trace_survive_their_assignment(self):
        w, moving = Variable([2.0, 3.0]), Variable([1.0, 1.0], trainable=False)
        with GradientTape() as tape:
            y = np.sum(w * moving)
            moving.assign(0.9 * moving + 0.1 * (w * w))
        np.testing.assert_array_equal(tape.gradient(y, w), [1, 1])
        np.testing.assert_allclose(moving, [1.3, 1.8], rtol=1e-6)

    def test_a_loss_that_is_kept_does_not_keep_the_record(self):
        w = Variable(np.ones(3))
        constant = np.ones(3)
        gone = weakref.ref(constant)
        with GradientTape() as tape:
            loss = np.sum(w * constant)
        del constant
        tape.gradient(loss, w)
        gc.collect()
        assert gone() is None
        assert float(loss) == 3


class TestHigherOrder:
    def test_third_derivative(self):
        x = Variable(2.0)
        with GradientTape() as first:
            with GradientTape() as second:
                with GradientTape() as third:
                    y = x**4
                dy = third.gradient(y, x)
            ddy = second.gradient(dy, x)
        dddy = first.gradient(ddy, x)
        assert [float(v) for v in (dy, ddy, dddy)] == [32, 48, 48]

    def test_hessian_vector_product_of_a_network(self):
        rng = np.random.default_rng(3)
        w, v = Variable(rng.normal(size=(4, 3))), rng.normal(size=(4, 3))

        def slope():
            return gradient(lambda: np.mean(np.log(np.sum(np.exp(np.tanh(X @ w)), axis=1))), w)

        with GradientTape() as outer:
            product = np.sum(slope() * v)
        got, base, step = outer.gradient(product, w), w.numpy(), 1e-6
        w.assign(base + step * v)
        ahead = slope()
        w.assign(base - step * v)
        np.testing.assert_allclose(got, (ahead - slope()) / (2 * step), rtol=1e-5, atol=1e-8)

    def test_second_order_through_rows(self):
        table = Variable([[1.0, 2.0], [3.0, 4.0]])
        with GradientTape() as outer:
            g = gradient(lambda: np.sum(table[[1, 1]] ** 3), table)
            y = np.sum(g)
        np.testing.assert_array_equal(outer.gradient(y, table).to_dense(), [[0, 0], [36, 48]])

    def test_only_the_tape_that_watches_follows(self):
        a, b = Variable(2.0), Variable(3.0)
        with GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(b)
            with GradientTape() as inner:
                y = a * a * b
            da = inner.gradient(y, a)
        assert float(da) == 12
        assert float(outer.gradient(da, b)) == 4


class TestReplicas:
    def test_eight_replicas_differentiate_at_once(self):
        barrier, results = threading.Barrier(8), {}

        def train(index):
            enter_replica(Replica(f"replica {index}"))
            rng = np.random.default_rng(index)
            w, table = Variable(rng.normal(size=(3, 2))), Variable(rng.normal(size=(5, 3)))
            trail = []
            for _ in range(20):
                barrier.wait(30)
                with GradientTape() as outer:
                    with GradientTape() as inner:
                        y = np.mean(np.tanh(table[[0, index % 5, 0]] @ w) ** 2)
                    dw, dt = inner.gradient(y, [w, table])
                    penalty = np.sum(dw * dw)
                trail.append((dw.numpy(), np.asarray(dt.numpy()), outer.gradient(penalty, w)))
                w.assign_sub(0.1 * trail[-1][0])
            results[index] = trail

        def both(run):
            threads = [threading.Thread(target=train, args=(i,)) for i in run]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return dict(results)

        together = both(range(8))
        assert sorted(together) == list(range(8))
        barrier, results = threading.Barrier(1), {}
        for index in range(8):
            alone = both([index])[index]
            for step, expected in zip(together[index], alone, strict=True):
                for got, value in zip(step, expected, strict=True):
                    assert got.tobytes() == value.tobytes()

    def test_tapes_do_not_see_other_replicas(self):
        w, outcome = Variable(1.0), []

        def other():
            enter_replica(Replica("replica 1"))
            outcome.append(type(Variable(2.0) * 2))
            try:
                w * 2
            except ForeignVariableError as error:
                outcome.append(error)

        with GradientTape():
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert outcome[0] is np.float32
        assert isinstance(outcome[1], ForeignVariableError)


def test_threads_of_one_replica_have_tapes_of_their_own():
    w = Variable(np.ones(50, "float32"))
    begin = threading.Barrier(2)
    wrong = []

    def differentiate(factor):
        begin.wait()
        for _ in range(100):
            with GradientTape() as tape:
                loss = np.sum((w * factor) ** 2) + 0 * np.sum(np.exp(w))
            gradient = tape.gradient(loss, w)
            if gradient is None or not np.allclose(gradient, 2 * factor**2):
                wrong.append(gradient)

    threads = [threading.Thread(target=differentiate, args=(k,)) for k in (1, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
