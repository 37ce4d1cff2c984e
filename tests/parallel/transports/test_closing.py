"""What a closed strategy has given back, and who is told that it is closed."""

import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from parallel.caught import caught

import distopt
from distopt import Strategy, Variable, get_strategy
from distopt.distribute import LocalCommunicator, MPICommunicator, ThreadCommunicator
from distopt.distribute.transports.threads import Hub
from distopt.errors import CollectiveMismatchError, DeadCommunicatorError, InvalidArgumentError
from distopt.optimizers import SGD, Adam, legacy

COUNT = 50
MAY_GROW = {"files": 0, "mappings": 10, "threads": 0, "communicators": 0}


def of_its_own():
    """Another communicator of the same replicas."""
    here = get_strategy().communicator
    return MPICommunicator() if isinstance(here, MPICommunicator) else LocalCommunicator()


def holdings():
    gc.collect()
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "threads": threading.active_count(),
        "communicators": sum(isinstance(each, MPICommunicator) for each in gc.get_objects()),
    }


def step(optimizer, variable):
    optimizer.apply_gradients([(np.ones(variable.shape, np.float32), variable)])
    return float(np.asarray(variable)[0])


@pytest.mark.mpi
@pytest.mark.parametrize("update", ["replicated", "shared"])
@pytest.mark.parametrize("closes", [True, False])
def test_strategies_leave_nothing_behind(update, closes):
    from mpi4py import MPI

    looks = []
    for number in range(COUNT):
        comm = MPI.COMM_WORLD.Dup() if number % 2 else None
        strategy = Strategy(MPICommunicator(comm), update=update)
        with strategy.scope():
            assert step(SGD(1.0), Variable(np.zeros(1000, np.float32))) == -MPI.COMM_WORLD.size
        if closes:
            strategy.close()
        del strategy
        if comm is not None:
            comm.Free()
        if number in (5, COUNT - 1):
            looks.append(holdings())
    grown = {name: looks[1][name] - looks[0][name] for name in MAY_GROW}
    assert all(grown[name] <= MAY_GROW[name] for name in MAY_GROW), looks


@pytest.mark.parametrize("make", [SGD, Adam, legacy.SGD, legacy.Adam])
def test_an_optimizer_of_a_closed_strategy_says_so(replicas, make):
    def act():
        v = Variable(np.zeros(3, np.float32))
        with Strategy(of_its_own()) as strategy:
            optimizer = make(1.0)
            step(optimizer, v)
        before = v.numpy()
        failures = [caught(step, optimizer, v), caught(strategy.ready), caught(strategy.scope().__enter__)]
        assert (v.numpy() == before).all()
        step(make(1.0), v)
        return failures

    for failures in replicas(act):
        for failure in failures:
            assert failure.kind is DeadCommunicatorError
            assert "was closed: make another one" in failure.text


def test_an_optimizer_made_outside_goes_on_after_the_close(replicas):
    def act():
        v, optimizer = Variable(np.zeros(3, np.float32)), SGD(1.0, momentum=0.5)
        for _ in range(2):
            with Strategy(of_its_own()) as strategy:
                step(optimizer, v)
                count = strategy.num_replicas_in_sync
        return step(optimizer, v), count

    for value, count in replicas(act):
        assert value == -3.25 * count - replicas.count


def test_the_strategy_of_the_job_is_not_closed(replicas):
    def act():
        failure = caught(get_strategy().close)
        distopt.barrier()
        return failure

    for failure in replicas(act):
        assert failure.kind is InvalidArgumentError
        assert "of the whole job" in failure.text


def test_a_communicator_that_another_strategy_uses_stays_open(replicas):
    def act():
        communicator = get_strategy().communicator
        other = Strategy(of_its_own())
        twin = Strategy(other.communicator)
        for strategy in (Strategy(communicator), other):
            with strategy.scope():
                distopt.barrier()
            strategy.close()
            strategy.close()
        with twin:
            distopt.barrier()
        return float(distopt.all_reduce(1.0))

    assert replicas(act) == [float(replicas.count)] * replicas.count


def test_a_block_that_fails_leaves_the_strategy_open():
    strategy = Strategy(LocalCommunicator())
    with pytest.raises(KeyError), strategy:
        raise KeyError
    assert not strategy.is_closed
    assert get_strategy() is not strategy


def test_who_does_not_close_is_told():
    hub = Hub(2)

    def act():
        index = distopt.replica_index()
        strategy = Strategy(ThreadCommunicator(hub, index))
        with strategy.scope():
            distopt.barrier()
            return caught(strategy.close if index else distopt.barrier)

    for failure in distopt.simulate(2, act):
        assert failure.kind is CollectiveMismatchError
        assert "replica 1: close of a Strategy" in failure.text
