"""Tests that every transport must pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import distopt
from distopt.distribute.agreement.communicator import Array, Communicator, Location
from distopt.errors import DeadCommunicatorError
from distopt.testing.replicas import Replicas


class CommunicatorConformance:
    """Tests of a ``Communicator``, over a fixture ``replicas`` that gives each replica its end of one.

    Subclass this class in a test module of pytest, and give the subclass the fixture (for a new transport with a
    ``Replicas`` of your own)::

        class TestThreads(CommunicatorConformance):
            @pytest.fixture(params=[1, 2, 3, 4])
            def replicas(self, request):
                return SimulatedReplicas(request.param)
    """

    def test_indices_are_those_of_the_results(self, replicas: Replicas) -> None:
        """Check that replicas count from 0, and all know their number."""
        seen = replicas(lambda: (_here().index, _here().size, _here().name))
        assert seen == [(r, replicas.count, replicas.transport) for r in range(replicas.count)]

    def test_places_count_each_node_from_zero(self, replicas: Replicas) -> None:
        """Check that nodes, and the replicas on each, are numbered without gaps, in the order of the replicas."""
        locations: list[Location] = replicas(lambda: _here().location)
        on_node: dict[int, list[Location]] = {}
        for location in locations:
            on_node.setdefault(location.node, []).append(location)
        assert list(on_node) == list(range(len(on_node)))
        for members in on_node.values():
            assert [location.index_on_node for location in members] == list(range(len(members)))
            assert {location.replicas_on_node for location in members} == {len(members)}

    def test_all_gather_gives_everybody_every_record(self, replicas: Replicas) -> None:
        """Check that row r is replica r's record, for records of any length."""

        def gather(length: int) -> Array:
            return _here().all_gather(_bytes(_here().index, length)).copy()

        for length in (1, 48, 5000):
            expected = np.stack([_bytes(r, length) for r in range(replicas.count)])
            for rows in replicas(gather, length):
                assert rows.dtype == np.uint8
                np.testing.assert_array_equal(rows, expected)

    def test_a_record_is_free_when_all_gather_returns(self, replicas: Replicas) -> None:
        """Check that a replica may write its record again at once, while slower replicas still read the rows."""

        def gather() -> list[Array]:
            record, gathered = np.zeros(16, np.uint8), []
            for step in range(20):
                record[:] = 10 * step + _here().index
                gathered.append(_here().all_gather(record)[:, 0].copy())
            return gathered

        for gathered in replicas(gather):
            for step, column in enumerate(gathered):
                assert column.tolist() == [10 * step + r for r in range(replicas.count)]

    def test_all_gather_in_time_keeps_its_deadline(self, replicas: Replicas) -> None:
        """Check that a deadline that is not needed changes nothing."""
        for rows in replicas(lambda: _here().all_gather(_bytes(0, 4), time.monotonic() + 60).copy()):
            assert rows.shape == (replicas.count, 4)

    def test_transfer_brings_to_each_what_was_meant_for_it(self, replicas: Replicas) -> None:
        """Check that every pair exchanges an array of its own, each replica with itself too."""

        def exchange() -> list[Array]:
            me, size = _here().index, _here().size
            received = [np.full(3 + r + me, np.nan) for r in range(size)]
            _here().transfer([np.full(3 + r + me, 100.0 * me + r) for r in range(size)], received)
            return received

        for me, received in enumerate(replicas(exchange)):
            for r, array in enumerate(received):
                np.testing.assert_array_equal(array, np.full(3 + r + me, 100.0 * r + me))

    def test_transfer_may_leave_pairs_out(self, replicas: Replicas) -> None:
        """Let only replica 0 send, and not to everybody: arrays that nobody sends to keep their values."""
        chosen = [r for r in range(replicas.count) if r % 2 == 0]

        def scatter() -> Array:
            me, size = _here().index, _here().size
            received = np.zeros(5, np.float32)
            sends = [np.full(5, r + 1, np.float32) if me == 0 and r in chosen else None for r in range(size)]
            receives = [received if r == 0 and me in chosen else None for r in range(size)]
            _here().transfer(sends, receives)
            return received

        for me, received in enumerate(replicas(scatter)):
            np.testing.assert_array_equal(received, np.full(5, me + 1 if me in chosen else 0))

    def test_transfer_of_nothing_returns(self, replicas: Replicas) -> None:
        """Check that a call with None for every replica returns, as any other call does."""
        nothing = [None] * replicas.count
        assert replicas(lambda: _here().transfer(nothing, nothing)) == nothing

    def test_transfer_of_empty_arrays_returns(self, replicas: Replicas) -> None:
        """Check that arrays without elements travel too."""

        def exchange() -> tuple[int, ...]:
            received = [np.empty(0, np.float32) for _ in range(_here().size)]
            _here().transfer([np.empty(0, np.float32)] * _here().size, received)
            return received[0].shape

        assert replicas(exchange) == [(0,)] * replicas.count

    def test_transfer_of_large_arrays(self, replicas: Replicas) -> None:
        """Check that arrays larger than a transport's buffers arrive whole, from all to all at once."""
        length = 300_000

        def exchange() -> list[bool]:
            me, size = _here().index, _here().size
            received = [np.empty(length) for _ in range(size)]
            _here().transfer([_ramp(me, length)] * size, received)
            return [bool(np.array_equal(array, _ramp(r, length))) for r, array in enumerate(received)]

        assert replicas(exchange) == [[True] * replicas.count] * replicas.count

    def test_transfer_takes_every_dtype(self, replicas: Replicas) -> None:
        """Check that bytes arrive unchanged, for every dtype."""
        for dtype in ("float16", "float32", "float64", "int64", "uint8", "bool", "complex128", "bfloat16"):
            for arrived in replicas(_arrive_alike, dtype):
                assert arrived, dtype

    def test_transfer_leaves_what_it_sends_as_it_is(self, replicas: Replicas) -> None:
        """Check that an array is the caller's again afterwards, unchanged, and that read-only arrays can be sent."""

        def exchange() -> tuple[float, float]:
            size = _here().size
            sent, received = np.full(1000, 7.0), [np.zeros(1000) for _ in range(size)]
            sent.flags.writeable = False
            _here().transfer([sent] * size, received)
            sent.flags.writeable = True
            unchanged = float(sent.sum())
            sent[:] = -1
            _here().all_gather(_bytes(0, 1))
            return unchanged, float(sum(array.sum() for array in received))

        assert replicas(exchange) == [(7000.0, 7000.0 * replicas.count)] * replicas.count

    def test_a_prepared_transfer_sends_what_is_there_when_it_is_called(self, replicas: Replicas) -> None:
        """Check that a transfer that is prepared once can be called in every step, with new values in its arrays."""
        for length in (3, 50_000):
            for sums in replicas(_send_again_and_again, length):
                assert sums == [length * sum(10.0 * k + r for r in range(replicas.count)) for k in range(5)]

    def test_prepared_transfers_do_not_mix(self, replicas: Replicas) -> None:
        """Check that several prepared transfers can be called in another order, with other operations in between."""

        def exchange() -> list[list[float]]:
            size, seen = _here().size, []
            sent = [np.full(7, 100.0 * k + _here().index) for k in range(3)]
            received = [[np.zeros(7) for _ in range(size)] for _ in range(3)]
            transfers = [_here().prepare([sent[k]] * size, received[k]) for k in range(3)]
            for k in (2, 0, 1, 0, 2):
                transfers[k]()
                _here().all_gather(_bytes(0, 3))
                seen.append([float(array.mean()) for array in received[k]])
            return seen

        wanted = [[100.0 * k + r for r in range(replicas.count)] for k in (2, 0, 1, 0, 2)]
        assert replicas(exchange) == [wanted] * replicas.count

    def test_preparing_moves_nothing(self, replicas: Replicas) -> None:
        """Check that a prepared transfer that is never called has no effect on its arrays or on later transfers."""

        def exchange() -> tuple[float, float]:
            size = _here().size
            untouched, received = [np.zeros(4) for _ in range(size)], [np.zeros(4) for _ in range(size)]
            _here().prepare([np.full(4, 5.0)] * size, untouched)
            _here().transfer([np.full(4, 1.0)] * size, received)
            return float(np.sum(untouched)), float(np.sum(received))

        assert replicas(exchange) == [(0.0, 4.0 * replicas.count)] * replicas.count

    def test_operations_follow_one_another(self, replicas: Replicas) -> None:
        """Check that a long sequence of both operations keeps its order, however fast each replica is."""

        def work() -> float:
            me, size, total = _here().index, _here().size, 0.0
            for k in range(30):
                rows = _here().all_gather(np.array([me + k], np.uint8))
                mine, received = np.full(1 + k, float(k)), np.zeros(1 + k)
                target, source = (me + 1 + k) % size, (me - 1 - k) % size
                sends = [mine if r == target else None for r in range(size)]
                _here().transfer(sends, [received if r == source else None for r in range(size)])
                total += float(rows.sum()) + float(received.sum())
            return total

        assert len(set(replicas(work))) == 1


class DeadlineConformance:
    """Tests of what a ``Communicator`` does when a replica comes too late: each needs communicators of its own.

    Besides the fixture ``replicas``, whose strategy has another communicator, a subclass defines
    ``with_fresh_communicators(replicas, fn)``: it calls ``fn(communicator)`` on every replica, with a communicator
    that nobody has used or will use, and returns the results.
    """

    def with_fresh_communicators(self, replicas: Replicas, fn: Callable[[Communicator], Any]) -> list[Any]:
        """Call ``fn(communicator)`` on every replica."""
        raise NotImplementedError

    def test_a_deadline_ends_the_wait(self, replicas: Replicas) -> None:
        """Check that no replica waits longer than its own deadline for a replica that does not come."""
        outcomes = self.with_fresh_communicators(replicas, partial(_wait_for_replica_0, times=1))
        assert outcomes == [[]] + [["TimeoutError"]] * (replicas.count - 1)

    def test_after_a_deadline_the_communicator_is_dead(self, replicas: Replicas) -> None:
        """Check that the next call is refused: it would be paired with the wrong message."""
        outcomes = self.with_fresh_communicators(replicas, partial(_wait_for_replica_0, times=2))
        assert outcomes == [[]] + [["TimeoutError", "DeadCommunicatorError"]] * (replicas.count - 1)


def _wait_for_replica_0(communicator: Communicator, times: int) -> list[str]:
    """Call ``all_gather`` so many times, while replica 0 makes its only call after the others have given up."""
    communicator.all_gather(_bytes(0, 8))
    outcomes = []
    for _ in range(times if communicator.index else 0):
        try:
            communicator.all_gather(_bytes(0, 8), time.monotonic() + 0.1)
        except (TimeoutError, DeadCommunicatorError) as error:
            outcomes.append(type(error).__name__)
    distopt.barrier()
    if communicator.index == 0:
        communicator.all_gather(_bytes(0, 8))
    return outcomes


def _here() -> Communicator:
    return distopt.get_strategy().communicator


def _bytes(replica: int, length: int) -> Array:
    return (np.arange(length) * 7 + 31 * replica).astype(np.uint8)


def _ramp(replica: int, length: int) -> Array:
    return np.arange(length, dtype=np.float64) + 0.25 * replica


def _send_again_and_again(length: int) -> list[float]:
    size, me = _here().size, _here().index
    sent, received = np.empty(length), [np.empty(length) for _ in range(_here().size)]
    transfer, sums = _here().prepare([sent] * size, received), []
    for k in range(5):
        sent[:] = 10.0 * k + me
        transfer()
        sums.append(float(np.sum(received)))
    return sums


def _arrive_alike(name: str) -> bool:
    from distopt.arrays import to_dtype

    dtype = to_dtype(name)
    arrays = [(np.arange(9) + r).astype(dtype) for r in range(_here().size)]
    received = [np.zeros(9, dtype) for _ in arrays]
    _here().transfer([arrays[_here().index]] * len(arrays), received)
    return all(a.tobytes() == b.tobytes() for a, b in zip(arrays, received, strict=True))
