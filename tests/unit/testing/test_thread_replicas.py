"""A transport of a user's own, in threads: how they become replicas."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support import ROOT, run
from unit.testing import own_transport

import distopt
from distopt.errors import ReplicaFailedError
from distopt.optimizers import Adam
from distopt.testing import CommunicatorConformance, DeadlineConformance, ThreadReplicas

OWN_FIXTURES = {"replicas"}


@pytest.fixture
def replicas():
    return ThreadReplicas(own_transport.make)


class TestQueues(CommunicatorConformance):
    pass


class TestDeadlines(DeadlineConformance):
    def with_fresh_communicators(self, replicas, fn):
        ends = replicas.make()
        return replicas(lambda: fn(ends[distopt.replica_index()]))


@pytest.mark.filterwarnings("ignore:the replicas of a node can't share memory")  # there is no node_barrier
def test_training_has_the_bits_of_a_simulation(replicas):
    def train():
        w, optimizer = distopt.Variable(np.ones(1000, "f4")), Adam(0.1)
        for step in range(3):
            gradient = np.random.default_rng([step, distopt.replica_index()]).normal(size=1000)
            optimizer.apply_gradients([(gradient, w)])
        return distopt.digest(w.numpy())

    assert replicas(train) == distopt.simulate(2, train)


def test_a_failure_ends_the_others(replicas):
    heard = []

    def train():
        if distopt.replica_index():
            raise ValueError("boom")
        try:
            distopt.barrier()
        except ReplicaFailedError as error:
            heard.append(str(error))
            raise

    with pytest.raises(ValueError, match="boom"):
        replicas(train)
    assert "boom" in heard[0]


def test_plain_threads_with_a_scope_each_train_apart():
    def train(end):
        with distopt.Strategy(end).scope():
            w = distopt.Variable(np.zeros(3, np.float32))
            Adam(0.1).apply_gradients([(np.full(3, distopt.replica_index() + 1, np.float32), w)])
            return distopt.replica_index(), distopt.all_reduce(w).tolist()

    with pytest.warns(UserWarning, match="share no memory"), ThreadPoolExecutor(2) as threads:
        first, second = threads.map(train, own_transport.make())
    assert (first[0], second[0]) == (0, 1)
    assert first[1] == second[1]


def test_the_parallel_tests_run_over_a_transport_by_its_name():
    tests = ROOT / "tests" / "parallel" / "steps" / "test_step.py"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--over",
        "unit.testing.own_transport:make",
        tests,
        "-k",
        "sum or mean",
    ]
    result = run(command, timeout=110)
    assert result.status == 0, result.text
    assert " passed" in result.output
