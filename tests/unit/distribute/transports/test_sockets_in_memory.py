"""What replicas of Ray on one node send each other through memory."""

import threading

import ml_dtypes
import numpy as np
import pytest
from connected import connected, make_peers, record, together

from distopt.distribute.agreement.summation import Summation
from distopt.errors import DeadCommunicatorError, ReplicaFailedError, ReplicaLostError


@pytest.fixture
def neighbours():
    """Three replicas on one node."""
    ends = make_peers((0, 0, 0))
    yield connected(ends)
    for each in ends:
        each.close()


@pytest.mark.parametrize("length", [0, 1, 1000, 3_000_001])
def test_arrays_that_go_through_memory_arrive(length, neighbours):
    def exchange(me):
        received = [np.zeros(length + r, np.uint16) for r in range(3)]
        for turn in range(3):
            neighbours[me].transfer([np.full(length + me, 10 * me + r + turn).astype("u2") for r in range(3)], received)
            for r in range(3):
                np.testing.assert_array_equal(received[r], 10 * r + me + turn)

    together([lambda me=me: exchange(me) for me in range(3)])


def test_another_thread_than_the_one_that_formed_the_group_may_use_it(neighbours):
    def use(me):
        neighbours[me].all_gather(record(me))
        neighbours[me].transfer([None] * 3, [None] * 3)

    together([lambda me=me: use(me) for me in range(3)])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("length", [1, 999, 4097 * 3, 300_001, 1_100_000])
def test_sums_through_memory_have_the_bits_of_sums_by_transfers(length, dtype, neighbours):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    mine = [np.random.default_rng(r).normal(size=length).astype(dtype) for r in range(3)]

    def total(communicator):
        flat = mine[communicator.index].copy()
        summation = Summation(communicator, flat)
        summation()
        first = flat.copy()
        summation()
        return first, flat

    staged = together([lambda me=me: total(neighbours[me]) for me in range(3)])
    for each in neighbours:
        each.staging = None
    by_transfers = together([lambda me=me: total(neighbours[me]) for me in range(3)])
    for first, second in zip(staged, by_transfers, strict=True):
        assert [a.tobytes() for a in first] == [a.tobytes() for a in second]


@pytest.mark.parametrize(
    "wait",
    [
        lambda me: me.all_gather(record(0)),
        lambda me: Summation(me, np.zeros(10))(),
        lambda me: me.transfer([None] * 3, [None, np.zeros(10), None]),
    ],
    ids=["in a header", "in a sum", "in a transfer"],
)
def test_a_replica_of_one_node_that_was_told_to_stop_waiting_does(wait, neighbours):
    timer = threading.Timer(0.2, neighbours[0].abandon)
    timer.start()
    with pytest.raises(DeadCommunicatorError, match="abandoned"):
        wait(neighbours[0])
    with pytest.raises(DeadCommunicatorError, match="abandoned"):
        neighbours[0].all_gather(record(0))


def test_arrays_of_different_length_are_an_error_in_memory_too(neighbours):
    def exchange(me):
        others = [None if r == me else np.zeros(3) for r in range(3)]
        sent = [None if r == me else np.zeros(4) for r in range(3)]
        with pytest.raises(ReplicaFailedError, match=r"sent 32 bytes \(payload\) where 24 bytes \(payload\)"):
            neighbours[me].transfer(sent, others)
        with pytest.raises(DeadCommunicatorError, match="ReplicaFailedError"):
            neighbours[me].transfer(sent, others)

    together([lambda me=me: exchange(me) for me in range(3)])


def test_who_waits_in_a_transfer_through_memory_hears_of_a_death(neighbours):
    together([each.status_channel for each in neighbours])
    timer = threading.Timer(0.2, neighbours[1].peers.close)
    timer.start()
    received = [None, np.empty(10_000_000), None]
    with pytest.raises(ReplicaLostError, match="replica 1 is gone"):
        neighbours[0].transfer([None, received[1].copy(), None], received)
