"""What the loss of another replica leaves behind: nothing before the first write, damage where one was on its way."""

import numpy as np
import pytest
from schedules.late import LateCommunicator, Lateness

import distopt
from distopt import Strategy, Variable
from distopt.errors import DamagedOptimizerError, ReplicaLostError
from distopt.optimizers import SGD
from distopt.process.moments import Moment
from distopt.process.observers import add_observer, remove_observer


class Losing(LateCommunicator):
    """Two nodes, of which the other one can be gone."""

    is_lost = False

    def prepare(self, sends, receives, *, once=False):
        transfer = super().prepare(sends, receives, once=once)

        def lossy():
            if self.is_lost:
                raise ReplicaLostError("the other replica is gone")
            transfer()

        return lossy


def lose_at(moment, update):
    """Do a step, and another in which the other replica is gone from a moment on; return what a third one gives."""
    communicator = Losing(distopt.get_strategy().communicator, Lateness(0, distopt.replica_index(), 2), (0, 1))

    def lose(*_):
        communicator.is_lost = True

    with Strategy(communicator, update=update).scope():
        w = Variable(np.zeros(9000, "float32"), name="w")
        sgd, gradient = SGD(1.0), np.ones(9000, "float32")
        sgd.apply_gradients([(gradient, w)])
        add_observer(lose, moment)
        with pytest.raises(ReplicaLostError):
            sgd.apply_gradients([(gradient, w)])
        remove_observer(lose)
        communicator.is_lost = False
        sgd.apply_gradients([(gradient, w)])
        return sorted(set(w.numpy().tolist())), int(sgd.iterations)


@pytest.mark.parametrize("update", ["replicated", "shared"])
def test_nothing_is_damaged_before_anything_is_written(update):
    assert distopt.simulate(2, lose_at, Moment.AGREED, update) == [([-4.0], 2)] * 2


def test_parameters_that_were_on_their_way_are_damaged():
    def damaged():
        with pytest.raises(DamagedOptimizerError, match="the other replica is gone"):
            lose_at(Moment.ALL_UPDATED, "shared")
        return True

    assert distopt.simulate(2, damaged) == [True] * 2
