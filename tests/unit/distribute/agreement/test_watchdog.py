"""The watchdog among simulated replicas."""

import threading
from pathlib import Path

import numpy as np
import pytest

import distopt
from distopt import Deadlines, Strategy, Variable
from distopt.errors import StalledError
from distopt.optimizers import SGD


def stall(missing, released, update="replicated", **deadlines):
    """A replica that stays away from the second step."""
    with Strategy(distopt.get_strategy().communicator, update=update, deadlines=Deadlines(**deadlines)).scope():
        variable, optimizer = Variable(np.zeros(3), name="w"), SGD(1.0)
        optimizer.apply_gradients([(np.ones(3), variable)])
        if distopt.replica_index() == missing:
            stay_away(released)
        optimizer.apply_gradients([(np.ones(3), variable)])
        return variable.numpy().tolist()


def stay_away(released):
    released.wait(30)


@pytest.fixture(scope="module", autouse=True)
def _compiled_kernels():
    """Compiling takes longer than the deadlines below."""
    distopt.simulate(3, stall, None, None, warn=60)


@pytest.mark.parametrize("update", ["replicated", "shared"])
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_replica_that_does_not_come_ends_the_simulation(missing, update, capfd):
    released = threading.Event()
    try:
        with pytest.raises(StalledError) as caught:
            distopt.simulate(3, stall, missing, released, update, warn=0.3, silent=1, end=1)
    finally:
        released.set()
    assert caught.value.missing == [missing]
    assert f"for replica {missing} (its last call was apply_gradients of SGD (step 0); it is at " in str(caught.value)
    assert f"{Path(__file__).name}:" in str(caught.value)
    assert "in stay_away" in str(caught.value)
    assert "Deadlines(end=...)" in str(caught.value)
    assert capfd.readouterr().err.count("The stacks of all replicas are in") == 1


def test_a_replica_that_comes_late_is_awaited(capfd):
    released = threading.Event()
    threading.Timer(1, released.set).start()
    values = distopt.simulate(3, stall, 1, released, warn=0.3, silent=20, end=20)
    assert values == [[-6.0] * 3] * 3
    assert capfd.readouterr().err.count("has waited") == 1
