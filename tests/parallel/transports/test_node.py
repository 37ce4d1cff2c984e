"""The memory that the replicas of a node share, and their barrier; what is done where there is none."""

import time

import numpy as np
import pytest
from parallel.caught import caught, warned
from parallel.random_steps import Run, Step, WithoutNode, train

import distopt
from distopt import Strategy
from distopt.distribute.node.barrier import FlagBarrier
from distopt.distribute.node.node import Node
from distopt.errors import DeadCommunicatorError, NoSharedMemoryError
from distopt.memory.layout import new_segment
from distopt.testing import SimulatedReplicas

RUN = Run(
    "momentum",
    {"global_clipnorm": 2.0},
    (((40, 3), "float32"), ((300, 70), "float16")),
    (Step((0, 1), ("sparse", "dense"), True), Step((1,), ("mixed",), False), Step((1, 0), ("dense", "sparse"), True)),
    seed=0,
)


def new_node():
    return Node(distopt.get_strategy().communicator)


# Who is on the node


def test_the_replicas_of_a_node_know_one_another(placed):
    def look():
        node = new_node()
        return node.here, node.members, node.index_on_node, node.is_whole_job

    nodes = [here for here, *_ in placed(look)]
    for r, (here, members, place, is_whole_job) in enumerate(placed(look)):
        assert members == tuple(q for q, other in enumerate(nodes) if other == here)
        assert members[place] == r
        assert not is_whole_job


def test_every_owner_has_one_holder_on_each_node(placed):
    def look():
        node = new_node()
        numbers = sorted(set(node.nodes))
        holders = [[node.delegate(owner, number) for number in numbers] for owner in range(placed.count)]
        return node.nodes, holders, node.represented_owners()

    looks = placed(look)
    nodes, holders, _ = looks[0]
    for owner, by_node in enumerate(holders):
        assert by_node[nodes[owner]] == owner
        assert [nodes[holder] for holder in by_node] == sorted(set(nodes))
    for r, (_, same, held) in enumerate(looks):
        assert same == holders
        assert held == [s for s in range(placed.count) if r in holders[s] and r != s]


# Memory


def share():
    """Bytes of the node's segments, written by their makers, then by others."""
    node, me = new_node(), distopt.replica_index()
    segment = new_segment(1000)
    segment.bytes[:] = me
    segments = node.share(segment)
    seen = [int(each[999]) for each in segments]
    node.barrier()
    segments[0][node.index_on_node] = 100 + me
    node.barrier()
    seen_later = segments[0][: len(segments)].tolist()
    node.barrier()
    return node.members, seen, seen_later, [each.size for each in segments]


def check_shared(outcomes):
    for members, seen, seen_later, sizes in outcomes:
        assert seen == list(members)
        assert seen_later == [100 + r for r in members]
        assert sizes == [1000] * len(members)


def test_segments_are_read_by_the_other_replicas(several):
    check_shared(several(share))


def test_segments_are_read_by_the_others_of_the_node(placed):
    check_shared(placed(share))


def unite():
    """Two views after uniting and after a write by the last of the node; whether they lie where they did."""
    node, me = new_node(), distopt.replica_index()
    first, second = new_segment(100), new_segment(5000)
    first.bytes[:], second.bytes[:] = me, 2 * me
    views = [first.bytes[7:9], second.bytes.view(np.int16)[2000:2002]]
    addresses = [view.ctypes.data for view in views]
    node.unite([first, second])
    before = [view.tolist() for view in views]
    node.barrier()
    if node.index_on_node == len(node.members) - 1:
        views[0][:] = 55
    node.barrier()
    return node.members[0], before, views[0].tolist(), addresses == [view.ctypes.data for view in views]


def check_united(outcomes):
    for first, before, after, are_kept in outcomes:
        assert before == [[first] * 2, [2 * first * 257] * 2]
        assert after == [55, 55]
        assert are_kept


def test_united_segments_keep_their_addresses_and_have_the_first_replica_s_bytes(several):
    check_united(several(unite))


def test_each_node_unites_its_own_segments(placed):
    check_united(placed(unite))


def test_one_that_has_no_segment_is_an_error_on_all_and_changes_nothing(several):
    def share():
        node, me = new_node(), distopt.replica_index()
        segment, last = new_segment(100), distopt.num_replicas() - 1
        segment.bytes[:] = me
        shared = caught(node.share, None if me == last else segment)
        united = caught(node.unite, [segment, None if me == last else segment])
        return shared, united, int(segment.bytes[0])

    for r, (shared, united, value) in enumerate(several(share)):
        for failure in (shared, united):
            assert failure.kind is NoSharedMemoryError
            assert "could not make its part: no memfd, and no room in /dev/shm" in failure.text
        assert value == r


# The barrier


def flag_barrier():
    return FlagBarrier(new_node())


def test_nobody_leaves_a_barrier_before_all_have_come(several):
    rounds = 300

    def meet():
        node = new_node()
        barrier = FlagBarrier(node)
        counts, late = [each.view(np.int64) for each in node.share(new_segment(8))], 0
        for k in range(rounds):
            counts[node.index_on_node][0] = k + 1
            barrier()
            late += sum(int(count[0]) != k + 1 for count in counts)
            barrier()
        return late

    assert several(meet) == [0] * several.count


def test_fences_stand_before_the_own_count_and_after_all_counts(several):
    """What a processor may reorder, no test on another one shows: so where the fences stand is looked at."""

    def meet():
        node, seen = new_node(), []
        barrier = FlagBarrier(node)
        barrier._fence = lambda: seen.append(list(barrier._counts))
        for _ in range(20):
            barrier()
        return node.index_on_node, seen

    for place, seen in several(meet):
        assert len(seen) == 40
        for k, (before, after) in enumerate(zip(seen[::2], seen[1::2], strict=True)):
            assert before[place] == k
            assert min(after) >= k + 1


def test_waiting_in_a_barrier_burns_no_core(several):
    def wait():
        barrier = flag_barrier()
        barrier()
        if distopt.replica_index() == 0:
            time.sleep(0.5)  # what the others' waiting costs is what is measured
        begun = time.thread_time()
        barrier()
        return time.thread_time() - begun

    used = several(wait)
    assert sum(used) < 0.25 * (several.count - 1), used


def test_an_abandoned_barrier_raises():
    def wait():
        barrier = flag_barrier()
        barrier()
        if distopt.replica_index() == 0:
            return None
        barrier.abandon()
        return caught(barrier)

    assert distopt.simulate(2, wait)[1].kind is DeadCommunicatorError


# Where there is no shared memory


@pytest.fixture
def without_memory(monkeypatch):
    for module in ("distopt.memory.layout", "distopt.distribute.node.barrier"):
        monkeypatch.setattr(f"{module}.new_segment", lambda nbytes: None)


@pytest.mark.parametrize("update", ["replicated", "shared"])
def test_without_memory_messages_do_it_and_one_warning_says_so(several, without_memory, update):
    expected = several(train, RUN, WithoutNode, "replicated", False)

    def run():
        return train(RUN, Strategy, update, False)

    outcomes, messages = warned(several, run)
    assert outcomes == expected
    assert len(messages) == 1
    assert "the replicas of a node can't share memory" in messages[0]
    assert "gradients are summed by messages" in messages[0]


def test_memory_that_ends_later_is_said_once_too(monkeypatch):
    """The barrier finds room, the gradients of one replica do not."""
    replicas = SimulatedReplicas(3)
    monkeypatch.setattr(
        "distopt.memory.layout.new_segment",
        lambda nbytes: None if distopt.replica_index() == 1 and nbytes > 30_000 else new_segment(nbytes),
    )
    for update in ("replicated", "shared"):
        expected = replicas(train, RUN, WithoutNode, "replicated", False)
        outcomes, messages = warned(replicas, lambda update=update: train(RUN, Strategy, update, False))
        assert outcomes == expected
        assert len(messages) == 1
