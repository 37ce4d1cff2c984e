"""Numbers that depended on who was late, or on what one replica had done before: each is right for every history."""

import json
import math
import pickle
import threading

import numpy as np
import pytest
from parallel.random_steps import WithoutNode

import distopt
from distopt import IndexedSlices, Strategy, Variable
from distopt.aggregators import Sum
from distopt.checkpoint import Checkpointer
from distopt.distribute.agreement.checks import Checks
from distopt.distribute.transports.local import LocalCommunicator
from distopt.errors import InvalidArgumentError
from distopt.optimizers import SGD, LossScaleOptimizer, legacy
from distopt.process.moments import Moment
from distopt.process.observers import add_observer

SIZE = 5000
PATIENCE = 0.1
"""Seconds that a late replica waits for what others should not do without it."""

pytestmark = pytest.mark.filterwarnings("ignore")


def index():
    return distopt.replica_index()


def zeros(*names, dtype="float32"):
    return [Variable(np.zeros(SIZE), dtype=dtype, name=name) for name in names]


def full(number, dtype="float32"):
    return np.full(SIZE, number, dtype)


def values(variable):
    return sorted(set(np.asarray(variable).reshape(-1).tolist()))


def under(update, fn, **options):
    """Call a function under a strategy of this mode."""
    with Strategy(distopt.get_strategy().communicator, update=update, **options).scope():
        return fn()


def late_for_state(late, is_updated):
    """Let one of two replicas come late to its state: the other one has updated, if nothing makes it wait."""
    if index() == late:
        add_observer(lambda *_: is_updated.wait(PATIENCE), Moment.STATE)
    else:
        add_observer(lambda *_: is_updated.set(), Moment.ALL_UPDATED)


# Who owns which elements is what all replicas know


def two_gradients(optimizer, a, b):
    optimizer.apply_gradients([(full(index() + 1), a), (full(10 * index() + 10), b)])
    return values(a.numpy()), values(b.numpy())


def asked_for_buffers():
    a, b = zeros("a", "b")
    optimizer = legacy.SGD(1.0)
    if index() == 0:
        optimizer.gradient_buffers([b])
    return two_gradients(optimizer, a, b)


def pickled():
    a, b = zeros("a", "b")
    former = legacy.SGD(1.0, momentum=0.5)
    former.apply_gradients([(full(0), a), (full(0), b)])
    if index() == 0:
        former, a, b = pickle.loads(pickle.dumps((former, a, b)))
    return two_gradients(legacy.SGD(1.0), a, b)


def stepped_under_another_strategy():
    a, b = zeros("a", "b")
    if index() == 0:
        with Strategy(LocalCommunicator()).scope():
            legacy.SGD(1.0).apply_gradients([(full(0), b)])
    return two_gradients(legacy.SGD(1.0), a, b)


def built_in_another_order():
    a, b = zeros("a", "b")
    optimizer = SGD(1.0)

    def step():
        optimizer.build([a, b] if index() == 0 else [b, a])
        return two_gradients(optimizer, a, b)

    return under("replicated", step, broadcast=False)


@pytest.mark.parametrize(
    "history", [asked_for_buffers, pickled, stepped_under_another_strategy, built_in_another_order]
)
def test_ownership_follows_no_replicas_own_history(history):
    assert distopt.simulate(2, history) == [([-3.0], [-30.0])] * 2


# A barrier where there is no header


class WithoutHeader(Sum):
    lockstep = False


def test_a_sum_without_header():
    is_done = threading.Event()

    def train():
        (w,) = zeros("w")
        sgd = SGD(1.0, gradient_aggregator=WithoutHeader())
        for k in range(5):
            if k == 3 and index() == 1:
                is_done.wait(PATIENCE)
            sgd.apply_gradients([(full(10.0**k), w)])
        is_done.set()
        distopt.barrier()
        return values(w.numpy())

    assert distopt.simulate(2, train) == [[-22222.0]] * 2


# State in shared mode


def test_assigning_to_a_slot_in_shared_mode():
    has_assigned = [threading.Event() for _ in range(3)]

    def train():
        (w,) = zeros("w")
        sgd = SGD(1.0, momentum=0.5)
        sgd.apply_gradients([(full(16.0), w)])
        m = sgd.variables[-1]
        distopt.barrier()
        if index():
            has_assigned[index() - 1].wait(PATIENCE)
        m.assign(m.numpy() * 0.5)
        has_assigned[index()].set()
        distopt.barrier()
        return values(m.numpy())

    assert distopt.simulate(3, lambda: under("shared", train)) == [[-24.0]] * 3


def test_master_weights_follow_an_assignment_in_shared_mode():
    is_updated = threading.Event()

    def train():
        (w,) = zeros("w", dtype="float16")
        sgd = SGD(1.0, master_weights=True)
        sgd.apply_gradients([(full(0, "float16"), w)])
        w.assign(full(1, "float16"))
        late_for_state(1, is_updated)
        sgd.apply_gradients([(full(5e-5, "float16"), w)])
        return values(sgd.get_weights()[-1].round(5))

    assert distopt.simulate(2, lambda: under("shared", train)) == [values(np.float32([0.9999]))] * 2


def test_a_slot_that_a_later_step_makes_in_shared_mode():
    is_updated = threading.Event()

    def train():
        a, b = zeros("a", "b")
        sgd = legacy.SGD(1.0, momentum=0.5)
        sgd.apply_gradients([(full(0), a), (None, b)])
        late_for_state(0, is_updated)  # the other one owns b
        sgd.apply_gradients([(full(0), a), (full(1), b)])
        return values(sgd.get_weights()[-1])

    assert distopt.simulate(2, lambda: under("shared", train)) == [[-2.0]] * 2


def test_an_average_of_what_no_step_has_shared():
    def train():
        (w,) = zeros("w")
        v = Variable(np.full(SIZE, 4.0), dtype="float64", name="v")
        sgd = SGD(1.0, use_ema=True, ema_momentum=0.5)
        sgd.build([w, v])
        sgd.apply_gradients([(full(0), w)])
        v.assign(np.full(SIZE, 8.0))
        sgd.apply_gradients([(full(0), w)])
        distopt.barrier()
        return [values(average) for average in sgd.get_weights()[2:]]

    assert distopt.simulate(3, lambda: under("shared", train)) == [[[0.0], [6.0]]] * 3


def test_a_checkpoint_of_what_no_step_has_shared(tmp_path):
    def train():
        (w,) = zeros("w")
        v = Variable(np.zeros(SIZE), dtype="float64", name="v")
        sgd = SGD(1.0, momentum=0.5)
        sgd.build([w, v])
        sgd.apply_gradients([(full(1), w)])
        with Checkpointer(tmp_path, optimizer=sgd, variables=[w, v]) as checkpointer:
            checkpointer.save()
            checkpointer.wait()
            return checkpointer.restore()

    assert distopt.simulate(2, lambda: under("shared", train)) == [1, 1]


# Written is not assigned


def test_an_average_beside_another_optimizers_master_weights():
    w, u = zeros("w", dtype="float16") + zeros("u")
    w.assign(full(8, "float16"))
    exact = SGD(1.0, master_weights=True)
    average = SGD(1.0, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=1)
    exact.build([w])
    average.build([w, u])
    average.apply_gradients([(full(0), u)])
    exact.apply_gradients([(full(-8, "float16"), w)])
    average.apply_gradients([(full(0), u)])
    exact.apply_gradients([(full(0, "float16"), w)])
    assert values(w.numpy()) == [12.0]


def test_an_average_beside_another_optimizers_check_of_memory():
    def train():
        w, u = zeros("w", "u")
        plain, average = SGD(1.0), SGD(1.0, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=1)
        average.build([w, u])
        average.apply_gradients([(full(0), w), (full(0), u)])
        plain.apply_gradients([(full(1), w)])
        average.apply_gradients([(full(0), u)])
        plain.apply_gradients([(full(0), w)])
        return values(w.numpy())

    checks = Checks(state_every=1)
    assert distopt.simulate(2, lambda: under("shared", train, checks=checks)) == [[-1.0]] * 2


def test_master_weights_outlive_a_step_that_is_left_out():
    def train():
        w = Variable([1.0], dtype="float16", name="w")
        sgd = SGD(1.0, master_weights=True)
        for gradient in (1e-4, np.inf, 0.0):
            sgd.apply_gradients([(np.float16([gradient]), w)])
        return round(float(sgd.variables[-1][0]), 4)

    assert under("replicated", train, checks=Checks(on_nonfinite="skip")) == 0.9999


# Streams and rows


def test_buffers_after_a_streamed_step_was_given_up(monkeypatch):
    monkeypatch.setenv("DISTOPT_BUCKET_BYTES", "1")
    is_written = threading.Barrier(2)

    def train():
        (w,) = zeros("w")
        sgd, sums, is_mine = SGD(1.0), threading.Event(), threading.Event()

        def sum_late(*_):
            sums.set()
            is_mine.wait(PATIENCE)

        add_observer(sum_late, Moment.SUM)
        sgd.begin_step([w])
        sgd.push(w, full(100))
        sums.wait(PATIENCE)
        (buffer,) = sgd.gradient_buffers([w])
        buffer[...] = index() + 1
        is_written.wait()
        is_mine.set()
        with pytest.raises(InvalidArgumentError, match="cancel_step"):
            sgd.apply_gradients([(buffer, w)])
        sgd.cancel_step()
        buffer[...] = index() + 1
        sgd.apply_gradients([(buffer, w)])
        return values(w.numpy())

    assert distopt.simulate(2, train) == [[-3.0]] * 2


@pytest.mark.parametrize("kind", [Strategy, WithoutNode])
def test_the_norm_of_rows_that_stand_twice(kind, tmp_path):
    def train():
        with kind(distopt.get_strategy().communicator, receipt=tmp_path).scope():
            w = Variable(np.zeros((4, 1), "float32"), name="w")
            SGD(1.0).apply_gradients([(IndexedSlices(np.ones((2, 1), "float32"), [0, 1], (4, 1)), w)])

    distopt.simulate(2, train)
    (line,) = [json.loads(text) for text in (tmp_path / "replica-0.jsonl").read_text().splitlines() if "norm" in text]
    assert float(line["gradient_norm"]) == math.sqrt(8)


@pytest.mark.filterwarnings("error")
def test_rows_that_are_not_finite_are_judged_and_not_warned_of():
    w, infinity = Variable(np.ones((4, 1), "float32"), name="w"), np.float32(np.inf)
    optimizer = LossScaleOptimizer(SGD(0.1))
    optimizer.apply_gradients([(IndexedSlices([[infinity], [-infinity]], [1, 1], (4, 1)), w)])
    assert (values(w.numpy()), float(optimizer.dynamic_scale)) == ([1.0], 2.0**14)
