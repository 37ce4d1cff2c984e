import distopt
from distopt.distribute import LocalCommunicator, MPICommunicator, ThreadCommunicator
from distopt.distribute.agreement.open_communicators import note_closed
from distopt.distribute.transports.threads import Hub
from distopt.testing import CommunicatorConformance, DeadlineConformance


class TestCommunicator(CommunicatorConformance):
    pass


class TestDeadline(DeadlineConformance):
    def with_fresh_communicators(self, replicas, fn):
        hub = Hub(replicas.count)

        def run():
            if replicas.transport == "local":
                return fn(LocalCommunicator())
            if replicas.transport == "threads":
                return fn(ThreadCommunicator(hub, distopt.replica_index()))
            if replicas.transport == "ray":
                return fn(distopt.get_strategy().communicator.twin())
            communicator = MPICommunicator()
            result = fn(communicator)
            note_closed(communicator)  # a dead one can't say goodbye
            return result

        return replicas(run)
