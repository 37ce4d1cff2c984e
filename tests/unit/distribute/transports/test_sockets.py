"""The transport that Ray's replicas use, between threads of this process: its contract, deaths, disorder."""

import importlib
import sys
import threading
import time

import numpy as np
import pytest
from connected import ConnectedReplicas, ForkedReplicas, connected, make_peers, record, together
from support import SOON

import distopt
from distopt.distribute.agreement.checks import Deadlines
from distopt.errors import DeadCommunicatorError, MissingExtraError, ReplicaError, ReplicaFailedError, ReplicaLostError
from distopt.testing import CommunicatorConformance, DeadlineConformance, FailureConformance, OptimizerConformance

OWN_FIXTURES = {"replicas"}


NODES = [(0,), (0, 0), (0, 1), (0, 1, 0), (0, 0, 0, 1), (0, 1, 2, 3, 4)]


@pytest.fixture(params=NODES, ids=lambda nodes: "-".join(map(str, nodes)))
def replicas(request):
    return ConnectedReplicas(request.param)


class TestCommunicator(CommunicatorConformance):
    pass


class WithFreshCommunicators:
    def with_fresh_communicators(self, replicas, fn):
        def run():
            return fn(distopt.get_strategy().communicator.clone())

        return replicas(run)


class TestDeadline(WithFreshCommunicators, DeadlineConformance):
    pass


class TestFailure(WithFreshCommunicators, FailureConformance):
    pass


class TestFailureOfProcesses(WithFreshCommunicators, FailureConformance):
    @pytest.fixture(params=[(0, 0), (0, 1, 0)], ids=str)
    def replicas(self, request):
        return ForkedReplicas(request.param)


@pytest.mark.parametrize("update", ["replicated", "shared"])
@pytest.mark.parametrize("nodes", NODES, ids=str)
def test_the_bits_are_those_of_simulated_replicas(nodes, update, monkeypatch):
    monkeypatch.setenv("DISTOPT_UPDATE", update)

    def train():
        random = np.random.default_rng(distopt.replica_index())
        variables = [distopt.Variable(np.zeros(shape, "float32")) for shape in [(3, 50), (7,), ()]]
        optimizer = distopt.optimizers.Adam(0.1)
        for _ in range(4):
            optimizer.apply_gradients([(random.normal(size=v.shape).astype("float32"), v) for v in variables])
        return distopt.digest(variables)

    assert len({*ConnectedReplicas(nodes)(train), *distopt.simulate(len(nodes), train)}) == 1


@pytest.fixture
def pair(two):
    """Two replicas on two nodes."""
    return connected(two)


def test_a_replica_that_is_gone_is_named_at_once(pair):
    pair[1].peers.close()
    began = time.monotonic()
    with pytest.raises(ReplicaLostError, match="replica 1 is gone"):
        pair[0].all_gather(record(0))
    assert time.monotonic() - began < SOON
    with pytest.raises(DeadCommunicatorError, match="replica 1 is gone"):
        pair[0].all_gather(record(0))


def test_a_replica_that_goes_in_the_middle_of_a_transfer_is_named(pair):
    received = np.empty(10_000_000)
    waiting = threading.Timer(0.2, pair[1].peers.close)
    waiting.start()
    with pytest.raises(ReplicaLostError, match="replica 1 is gone"):
        pair[0].transfer([None, received.copy()], [None, received])


def test_what_a_replica_says_before_it_ends_is_what_the_others_raise(pair):
    lines = together([each.status_channel for each in pair])

    def fail():
        lines[1].end(ValueError("the disk is full"))
        pair[1].peers.close()

    timer = threading.Timer(0.1, fail)
    timer.start()
    with pytest.raises(ReplicaFailedError, match="replica 1 failed: ValueError: the disk is full") as caught:
        pair[0].all_gather(record(0))
    assert caught.value.replica_index == 1


@pytest.mark.parametrize("error", [ReplicaLostError("replica 7 is gone"), ReplicaFailedError("it failed", 7)], ids=repr)
def test_what_was_only_heard_of_is_passed_on_as_it_is(error, pair):
    together([each.status_channel for each in pair])[1].end(error)
    with pytest.raises(type(error), match=str(error)) as caught:
        pair[0].all_gather(record(0))
    assert getattr(caught.value, "replica_index", 7) == 7


@pytest.mark.parametrize("says", ["it ends well", "it is killed"])
def test_who_waits_in_shared_memory_hears_of_a_death(says):
    left, all_have_it = threading.Event(), threading.Barrier(3)

    def replica():
        communicator = distopt.get_strategy().ready()
        distopt.barrier()
        distopt.get_strategy().node()
        all_have_it.wait()  # who still makes the node would be told there
        if distopt.replica_index() == 1:
            if says == "it ends well":
                communicator.status_channel().end(RuntimeError("gone"))
            communicator.peers.close()
            left.set()
            return "gone"
        left.wait()
        with pytest.raises((ReplicaLostError, ReplicaFailedError), match="replica 1"):
            distopt.barrier()
        return "told"

    assert ConnectedReplicas((0, 0, 0))(replica) == ["told", "gone", "told"]


def test_a_header_is_not_taken_for_a_payload(pair):
    def first():
        with pytest.raises(ReplicaFailedError, match=r"replica 1 does something else: it sent 8 bytes \(record\)"):
            pair[0].transfer([None, np.zeros(1)], [None, np.zeros(1)])

    def second():
        with pytest.raises(ReplicaFailedError, match=r"replica 0 does something else: it sent 8 bytes \(payload\)"):
            pair[1].all_gather(record(1))

    together([first, second])


def test_arrays_of_different_length_are_an_error(pair):
    def exchange(me, length):
        with pytest.raises(ReplicaFailedError, match="does something else"):
            pair[me].transfer([np.zeros(length)] * 2, [np.zeros(length) for _ in range(2)])

    together([lambda: exchange(0, 3), lambda: exchange(1, 4)])


def test_a_replica_that_was_told_to_stop_waiting_does(pair):
    timer = threading.Timer(0.2, pair[0].abandon)
    timer.start()
    with pytest.raises(DeadCommunicatorError, match="abandoned"):
        pair[0].all_gather(record(0))


def test_who_is_asked_answers(pair):
    lines = together([each.status_channel for each in pair])
    pair[1].watchdog.call_started("barrier()", 7)
    statuses = lines[0].ask(5.0)
    assert statuses[1].call == "barrier() (step 7)"
    assert "Thread" in statuses[1].stacks or "thread" in statuses[1].stacks


def test_a_silent_replica_on_another_node_is_said_to_be_one(pair):
    lines = together([each.status_channel for each in pair])
    assert "no sign of life" in lines[0].explain_silence(1).reason


def test_a_replica_that_does_not_come_ends_in_an_error_after_the_deadline(pair):
    for each in pair:
        each.watchdog.begin(Deadlines(warn=0.1, silent=0.3, end=0.3))
    together([each.status_channel for each in pair])
    pair[1].watchdog.call_started("something else", -1)
    pair[0].watchdog.call_started("barrier()", -1)
    pair[0].watchdog.call_started("barrier()", -1)
    with pytest.raises(ReplicaError, match="replica 1"):
        pair[0].all_gather(record(0))


def test_two_threads_are_not_let_in_at_once(pair):
    thread = threading.Thread(target=pair[0].all_gather, args=[record(0)])
    thread.start()
    while not pair[0].watchdog.waiting_since:
        time.sleep(0.001)
    with pytest.raises(ReplicaError, match="uses this communicator"):
        pair[0].all_gather(record(0))
    pair[1].all_gather(record(1))
    thread.join()


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "distopt.ray", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'distopt\[ray\]'"):
        importlib.import_module("distopt.ray")


def test_one_node_listens_on_the_loopback_address_only():
    ends = make_peers((0, 0, 0))
    assert {each.listener.getsockname()[0] for each in ends} == {"127.0.0.1"}
    for each in ends:
        each.close()


class TestOptimizer(OptimizerConformance):
    @pytest.fixture(params=[(0, 0), (0, 1, 0)], ids=str)
    def replicas(self, request):
        return ConnectedReplicas(request.param)

    def make_optimizer(self, **options):
        return distopt.optimizers.Adam(0.01, **options)
