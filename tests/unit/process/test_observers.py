"""The seam that observers of a step use: which moments come, in which order, and what their subjects are."""

import numpy as np
import pytest

import distopt
from distopt import Variable
from distopt.optimizers import SGD, legacy
from distopt.process.moments import SKIP, Moment, Reading
from distopt.process.observers import add_observer, observe, remove_observer
from distopt.process.replica import current_replica
from distopt.testing import LocalReplica

FRAME = [Moment.STEP, Moment.GRADIENT, Moment.HEADER, Moment.STATE, Moment.AGREED]
"""How every step begins that is not streamed."""


def one_step(optimizer=SGD, **options):
    """The moments of a step, each once where it comes several times in a row."""
    w, seen = Variable(np.zeros(9000, "float32"), name="w"), []
    sgd = optimizer(1.0, **options)
    sgd.apply_gradients([(np.ones(9000, "float32"), w)])
    add_observer(lambda moment, _: seen.append(moment))
    sgd.apply_gradients([(np.ones(9000, "float32"), w)])
    return [moment for k, moment in enumerate(seen) if [moment] != seen[k - 1 : k]]


@pytest.mark.parametrize("family", [SGD, legacy.SGD])
@pytest.mark.parametrize("update", ["replicated", "shared"])
def test_the_moments_of_a_step_come_in_order(family, update, monkeypatch):
    monkeypatch.setenv("DISTOPT_UPDATE", update)
    end = [Moment.ALL_UPDATED, Moment.STEP_DONE, Moment.UPDATED]
    for moments in distopt.simulate(2, one_step, family):
        assert [moment for moment in moments if moment not in (Moment.SUM, Moment.UPDATE)] == FRAME + end
        assert moments.index(Moment.AGREED) < moments.index(Moment.UPDATE) < moments.index(Moment.ALL_UPDATED)


def test_one_process_adds_and_publishes_nothing():
    assert LocalReplica()(one_step) == [[*FRAME, Moment.UPDATE, Moment.STEP_DONE, Moment.UPDATED]]


def test_who_asks_for_the_sums_sees_them_whole():
    def train():
        w, seen = Variable(np.zeros(9000, "float32"), name="w"), {}

        def look(moment, report):
            (seen[moment],) = [gradient.copy() for gradient in report.by_variable]
            assert report.names == ["w"]

        add_observer(look, Moment.GRADIENTS, Moment.SUMS)
        SGD(1.0, clipvalue=1.0).apply_gradients([(np.full(9000, distopt.replica_index() + 1, "float32"), w)])
        return {int(x) for x in seen[Moment.GRADIENTS]}, {int(x) for x in seen[Moment.SUMS]}, float(w[0])

    assert distopt.simulate(3, train) == [({r + 1}, {6}, -1.0) for r in range(3)]


def test_a_gradient_may_be_replaced_and_a_call_left_out():
    w, sgd = Variable([1.0], name="w"), SGD(1.0)
    answers = {Moment.STEP: SKIP, Moment.GRADIENT: None}

    def watch(moment, subject):
        if isinstance(subject, Reading):
            subject.gradient = [10.0]
        return answers[moment]

    add_observer(watch, Moment.STEP, Moment.GRADIENT)
    try:
        sgd.apply_gradients([([1.0], w)])
        assert float(w[0]) == 1.0
        answers[Moment.STEP] = None
        sgd.apply_gradients([([1.0], w)])
        assert float(w[0]) == -9.0
    finally:
        remove_observer(watch)
    sgd.apply_gradients([([1.0], w)])
    assert float(w[0]) == -10.0


def test_simulated_replicas_have_the_observers_of_their_caller_and_their_own():
    seen = []

    def watch(moment, subject):
        seen.append(subject)

    def each():
        observe(Moment.CHECKPOINT, distopt.replica_index())
        if distopt.replica_index() == 0:
            remove_observer(watch)
        distopt.barrier()
        observe(Moment.CHECKPOINT, 10 + distopt.replica_index())

    add_observer(watch, Moment.CHECKPOINT)
    try:
        distopt.simulate(2, each)
        observe(Moment.CHECKPOINT, 5)
    finally:
        remove_observer(watch)
    assert sorted(seen) == [0, 1, 5, 11]
    assert not current_replica().observers
