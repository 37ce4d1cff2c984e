import re
import threading

import numpy as np
import pytest
from parallel.caught import caught

import distopt
from distopt import Strategy, Variable, get_strategy, simulate
from distopt.distribute import LocalCommunicator, MPICommunicator
from distopt.errors import InvalidArgumentError, ReplicaLeftError
from distopt.optimizers import SGD, legacy


def test_the_strategy_knows_the_replicas(replicas):
    def look():
        strategy = get_strategy()
        assert strategy is get_strategy()
        assert isinstance(strategy.replica_index, int)
        return strategy.replica_index, strategy.num_replicas_in_sync, strategy.communicator.name

    assert replicas(look) == [(r, replicas.count, replicas.transport) for r in range(replicas.count)]


def test_the_replicas_of_one_machine_share_a_node(replicas):
    places = replicas(lambda: get_strategy().location)
    assert [(p.node, p.index_on_node, p.replicas_on_node) for p in places] == [
        (0, r, replicas.count) for r in range(replicas.count)
    ]


def test_scopes_nest_and_end(replicas):
    def enter():
        outer, alone = get_strategy(), Strategy(LocalCommunicator())
        with alone.scope() as entered:
            assert entered is alone
            inside = get_strategy().num_replicas_in_sync, float(distopt.all_reduce(1.0))
            with outer.scope():
                inner = get_strategy().num_replicas_in_sync
        with pytest.raises(KeyError), alone.scope():
            raise KeyError
        return inside, inner, get_strategy() is outer

    assert replicas(enter) == [((1, 1.0), replicas.count, True)] * replicas.count


def test_threads_of_one_process_are_one_replica():
    seen = []
    with Strategy(LocalCommunicator()).scope() as strategy:
        thread = threading.Thread(target=lambda: seen.append(get_strategy()))
        thread.start()
        thread.join()
        assert seen == [strategy]


@pytest.mark.parametrize("update", ["none", "Shared", 3])
def test_updates_that_are_not_known(update):
    with pytest.raises(InvalidArgumentError, match="replicated"):
        Strategy(update=update)


def test_what_is_no_communicator():
    with pytest.raises(InvalidArgumentError, match="MPICommunicator"):
        Strategy(object())


@pytest.mark.mpi
def test_a_communicator_that_this_process_does_not_belong_to():
    from mpi4py import MPI

    with pytest.raises(InvalidArgumentError, match="no member"):
        MPICommunicator(MPI.COMM_NULL)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("family", [SGD, legacy.SGD])
def test_replicas_of_a_sub_communicator(family):
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    half = world.rank % 2
    sub = world.Split(color=half, key=-world.rank)
    members = sorted((r for r in range(world.size) if r % 2 == half), reverse=True)
    with Strategy(MPICommunicator(sub)).scope() as strategy:
        assert strategy.num_replicas_in_sync == len(members)
        assert strategy.replica_index == members.index(world.rank)
        v = Variable(0.0)
        family(learning_rate=1.0).apply_gradients([(np.float32(1 + world.rank), v)])
        assert float(v) == -sum(1 + r for r in members)
        ranks = distopt.all_gather(world.rank)
    assert ranks.tolist() == members
    assert get_strategy().num_replicas_in_sync == world.size


@pytest.mark.mpi(min_size=2)
def test_a_communicator_between_two_groups_is_refused():
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    half = world.Split(color=min(world.rank, 1))
    between = half.Create_intercomm(0, world, 1 if world.rank == 0 else 0)
    for make in (MPICommunicator, lambda comm: distopt.aggregators.MPIAllreduce(comm)):
        with pytest.raises(InvalidArgumentError, match=r"intercommunicator.*comm\.Merge\(\)"):
            make(between)
    with Strategy(MPICommunicator(between.Merge(high=world.rank > 0))).scope():
        assert distopt.all_gather(world.rank).tolist() == list(range(world.size))
    between.Free()


@pytest.mark.mpi
def test_the_messages_of_the_user_do_not_interfere():
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    after, before = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    request = world.irecv(source=before)
    assert float(distopt.all_reduce(1.0)) == world.size
    assert distopt.all_reduce(np.ones(100_000)).sum() == 100_000 * world.size
    world.isend({"from": world.rank}, dest=after).wait()
    assert request.wait() == {"from": before}


@pytest.mark.parametrize("update", ["replicated", "shared"])
def test_a_strategy_without_communicator_is_over_the_simulated_replicas(update):
    def step():
        with Strategy(update=update).scope() as strategy:
            v = Variable(np.zeros(3, np.float32))
            SGD(1.0).apply_gradients([(np.full(3, strategy.replica_index + 1, np.float32), v)])
            return strategy.num_replicas_in_sync, v.numpy().tolist()

    assert simulate(3, step) == [(3, [-6.0] * 3)] * 3


def test_results_come_in_the_order_of_the_replicas():
    assert simulate(5, lambda a, *, b: a + b + distopt.replica_index(), 10, b=100) == [110, 111, 112, 113, 114]


def test_the_first_failure_is_raised_with_its_replica():
    def fail():
        if distopt.replica_index() == 2:
            raise KeyError("here")
        distopt.barrier()

    with pytest.raises(KeyError, match="here") as raised:
        simulate(4, fail)
    assert "simulated replica 2 of 4" in raised.value.__notes__[0]


@pytest.mark.parametrize("count", [0, -1, 2.0, True, "4"])
def test_numbers_of_replicas_that_are_none(count):
    with pytest.raises(InvalidArgumentError, match="1 or more"):
        simulate(count, lambda: None)


def test_simulations_nest():
    def outer():
        inner = simulate(2, lambda: int(distopt.all_reduce(distopt.replica_index() + 1)))
        return inner, int(distopt.all_reduce(1))

    assert simulate(3, outer) == [([3, 3], 3)] * 3


def test_after_a_simulation_there_is_one_replica_again():
    before = get_strategy()
    simulate(3, distopt.barrier)
    assert get_strategy() is before


@pytest.mark.parametrize("count", [2, 5])
def test_a_simulated_replica_that_returns_early_is_missed(count):
    def act():
        return None if distopt.replica_index() == 1 else caught(distopt.barrier)

    for replica, failure in enumerate(distopt.simulate(count, act)):
        if replica != 1:
            assert failure.kind is ReplicaLeftError
            assert re.match(rf"replica .*\b1\b.* of {count} has returned", failure.text)
