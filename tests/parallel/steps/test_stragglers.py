"""Who is late is measured, and named on request."""

import time

import numpy as np
import pytest

import distopt
from distopt import Strategy, Variable
from distopt.optimizers import SGD
from distopt.telemetry import stragglers

PAUSE = 0.05
"""Seconds: far more than a step."""


@pytest.mark.parametrize("update", ["replicated", "shared"])
def test_the_slowest_is_first_and_as_late_as_it_is(several, update):
    slow = several.count - 1

    def run():
        with Strategy(distopt.get_strategy().communicator, update=update).scope():
            variable, optimizer = Variable(np.zeros(3)), SGD(1.0)
            optimizer.apply_gradients([(np.ones(3), variable)])
            stragglers()  # begins anew
            for _ in range(4):
                if distopt.replica_index() == slow:
                    time.sleep(PAUSE)  # its work takes so long
                optimizer.apply_gradients([(np.ones(3), variable)])
            return stragglers(), stragglers()

    outcomes = several(run)
    assert outcomes == outcomes[:1] * several.count
    found, since = outcomes[0]
    assert sorted(each.replica for each in found) == list(range(several.count))
    assert found[0].replica == slow
    assert found[0].late > PAUSE / 2
    assert found[-1].late == 0
    assert all(each.late == pytest.approx(max(e.waited for e in found) - each.waited) for each in found)
    assert max(each.late for each in since) < PAUSE / 2
