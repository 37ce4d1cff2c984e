import time

import numpy as np
import pytest
from parallel.caught import caught

import distopt
from distopt.distribute import LocalCommunicator, MPICommunicator, ThreadCommunicator
from distopt.distribute.agreement.goodbye import announce_failure
from distopt.distribute.agreement.open_communicators import note_closed
from distopt.distribute.transports.threads import Hub
from distopt.errors import ReplicaFailedError
from distopt.testing import CommunicatorConformance, DeadlineConformance, FailureConformance, ThreadReplicas


class TestCommunicator(CommunicatorConformance):
    pass


class WithFreshCommunicators:
    def with_fresh_communicators(self, replicas, fn):
        hub = Hub(replicas.count)
        own = replicas.make() if isinstance(replicas, ThreadReplicas) else None

        def run():
            if own is not None:
                return fn(own[distopt.replica_index()])
            if replicas.transport == "local":
                return fn(LocalCommunicator())
            if replicas.transport == "threads":
                return fn(ThreadCommunicator(hub, distopt.replica_index()))
            if replicas.transport == "ray":
                return fn(distopt.get_strategy().communicator.clone())
            from mpi4py import MPI

            communicator = MPICommunicator(MPI.COMM_WORLD.Dup())
            result = fn(communicator)
            note_closed(communicator.link)  # a dead one can't say goodbye
            return result

        return replicas(run)


class TestDeadline(WithFreshCommunicators, DeadlineConformance):
    pass


class TestFailure(WithFreshCommunicators, FailureConformance):
    @pytest.fixture(autouse=True)
    def _where_a_failure_ends_no_others(self, replicas):
        if replicas.transport == "ray":
            pytest.skip("who fails on a twin has failed for the whole group: test_sockets.py makes groups")

    def test_a_failure_that_is_offered_in_a_header_is_not_taken_for_a_payload(self, replicas):
        """As at the end of a job: those who do not come to the header are told afterwards."""

        def end(communicator):
            communicator.status_channel()
            if communicator.index:
                arrays = [np.zeros(3)] * communicator.size
                return caught(communicator.transfer, arrays, [array.copy() for array in arrays])
            first = announce_failure(communicator, ValueError("boom"), time.monotonic() + 0.3)
            communicator.fail(ValueError("boom"))
            return first

        first, *told = self.with_fresh_communicators(replicas, end)
        assert first == (0 if replicas.count == 1 else None)
        for failure in told:
            assert failure.kind is ReplicaFailedError
            assert "ValueError: boom" in failure.text
