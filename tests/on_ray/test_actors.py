"""Plain actors as replicas: the same bits, deaths that are heard of, groups that form again."""

import os
import signal
import sys
import time
from itertools import product

import numpy as np
import pytest
import ray
from on_ray.actors import Actor
from quick import cases
from support import SOON, run, script_file

import distopt
import distopt.ray
from distopt.errors import InvalidArgumentError, ReplicaError, ReplicaFailedError, ReplicaLostError
from distopt.ray import group as groups
from distopt.ray.rendezvous import Rendezvous

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("cluster")]


@pytest.fixture(scope="module")
def actors():
    several = [Actor.remote() for _ in range(4)]
    ray.get([actor.pid.remote() for actor in several])
    yield several
    for actor in several:
        ray.kill(actor)


@pytest.fixture
def mortals():
    """Three actors of this test's own."""
    several = [Actor.remote() for _ in range(3)]
    pids = ray.get([actor.pid.remote() for actor in several])
    yield several, pids
    for actor in several:
        ray.kill(actor)


_groups = iter(range(1000))


def as_replicas(actors, fn, *args):
    name = f"group {next(_groups)}"
    return ray.get([a.replica.remote(r, len(actors), name, fn, *args) for r, a in enumerate(actors)], timeout=150)


def train(update):
    with distopt.Strategy(distopt.get_strategy().communicator, update=update).scope():
        random = np.random.default_rng(distopt.replica_index())
        variables = [distopt.Variable(np.zeros(shape, "float32")) for shape in [(3, 50), (7,), ()]]
        optimizer = distopt.optimizers.Adam(0.1)
        digests = []
        for _ in range(4):
            optimizer.apply_gradients([(random.normal(size=v.shape).astype("float32"), v) for v in variables])
            digests.append(distopt.digest(variables))
        return digests


@pytest.mark.parametrize(
    ("count", "update"),
    cases(
        product([1, 2, 3, 4], ["replicated", "shared"]),
        quick=[
            (1, "replicated"),
            (2, "shared"),
            (3, "replicated"),
            (4, "shared"),
        ],
    ),
)
def test_after_every_step_the_bits_are_those_of_simulated_replicas(actors, count, update):
    on_ray = as_replicas(actors[:count], train, update)
    assert on_ray == distopt.simulate(count, train, update)


def test_a_replica_knows_its_place(actors):
    def place():
        strategy = distopt.get_strategy()
        return (
            repr(strategy),
            distopt.replica_index(),
            strategy.location.index_on_node,
            strategy.location.replicas_on_node,
        )

    assert as_replicas(actors[:3], place) == [("<Strategy on ray>", r, r, 3) for r in range(3)]


def test_after_the_group_the_process_is_alone_again(actors):
    as_replicas(actors[:2], distopt.barrier)
    assert ray.get(actors[0].call.remote(distopt.num_replicas)) == 1


def test_the_same_name_can_be_used_again_and_again(actors):
    for _ in range(3):
        futures = [actor.replica.remote(r, 2, "again", distopt.num_replicas) for r, actor in enumerate(actors[:2])]
        assert ray.get(futures, timeout=60) == [2, 2]


ANOTHER_JOB = """
import sys, ray, distopt, distopt.ray
from on_ray.actors import Actor
ray.init(address=sys.argv[1], log_to_driver=False)
actors = [Actor.remote() for _ in range(2)]
futures = [a.in_the_default_group.remote(r, 2, distopt.all_reduce, 100.0) for r, a in enumerate(actors)]
print("result", [float(total) for total in ray.get(futures, timeout=60)])
"""


def test_two_jobs_whose_groups_have_no_name_do_not_meet(actors):
    first = actors[0].in_the_default_group.remote(0, 2, distopt.all_reduce, 1.0)
    with script_file(ANOTHER_JOB) as path:
        result = run([sys.executable, path, ray.get_runtime_context().gcs_address], timeout=120)
    assert result.output.splitlines() == ["result [200.0, 200.0]"], result.text
    second = actors[1].in_the_default_group.remote(1, 2, distopt.all_reduce, 1.0)
    assert ray.get([first, second], timeout=60) == [2.0, 2.0]


def test_the_driver_is_a_replica_of_its_job(actors):
    other = actors[0].replica.remote(1, 2, "with the driver", distopt.all_reduce, 2.0)
    with distopt.ray.init_group(0, 2, "with the driver"):
        assert distopt.all_reduce(1.0) == 3.0
    assert ray.get(other, timeout=60) == 3.0


def causes(futures):
    """What each call raised, or its result."""
    outcomes = []
    for future in futures:
        try:
            outcomes.append(ray.get(future, timeout=150))
        except ray.exceptions.RayTaskError as error:
            outcomes.append(error.cause)
        except ray.exceptions.ActorDiedError as error:
            outcomes.append(error)
    return outcomes


def test_when_a_replica_raises_the_others_raise_why(actors):
    def fail():
        distopt.barrier()
        if distopt.replica_index() == 1:
            raise ValueError("the disk is full")
        distopt.barrier()

    outcomes = causes([actor.replica.remote(r, 3, "one raises", fail) for r, actor in enumerate(actors[:3])])
    assert isinstance(outcomes[1], ValueError)
    for other in (outcomes[0], outcomes[2]):
        assert isinstance(other, ReplicaFailedError)
        assert other.replica_index == 1
        assert "replica 1 failed: ValueError: the disk is full" in str(other)


def test_a_replica_that_ends_early_is_named(actors):
    def leave_early():
        for _ in range(2 if distopt.replica_index() else 1):
            distopt.barrier()

    outcomes = causes([actor.replica.remote(r, 2, "one leaves", leave_early) for r, actor in enumerate(actors[:2])])
    assert "replica 0 of 2 has ended" in str(outcomes[1])
    assert "replica 1 failed: distopt.errors.ReplicaLeftError" in str(outcomes[0])


@pytest.mark.parametrize(
    ("update", "number"),
    cases(
        product(["replicated", "shared"], [signal.SIGKILL, signal.SIGSEGV]),
        quick=[
            ("replicated", signal.SIGKILL),
            ("shared", signal.SIGSEGV),
        ],
    ),
)
def test_survivors_of_a_death_know_in_seconds_and_form_a_new_group(mortals, update, number, tmp_path):
    actors, _ = mortals

    def die(victim):
        w = distopt.Variable(np.zeros(100_000, "float32"))
        optimizer = distopt.optimizers.SGD(0.1)
        for step in range(100_000):
            if step == 5 and distopt.replica_index() == victim:
                (tmp_path / "died").touch()
                os.kill(os.getpid(), number)
            optimizer.apply_gradients([(np.ones(100_000, "float32"), w)])

    def survive(index, name):
        os.environ["DISTOPT_UPDATE"] = update
        try:
            with distopt.ray.init_group(index, 3, name):
                die(1)
        except ReplicaLostError as error:
            lost, heard = str(error), time.time()
        with distopt.ray.init_group(index // 2, 2, f"{name} again"):
            return lost, heard, train(update)

    futures = [actor.call.remote(survive, r, f"deaths {update} {number}") for r, actor in enumerate(actors)]
    first, dead, last = causes(futures)
    assert isinstance(dead, ray.exceptions.ActorDiedError)
    for lost, heard, digests in (first, last):
        assert "replica 1 is gone" in lost
        assert heard - (tmp_path / "died").stat().st_mtime < SOON
        assert digests == distopt.simulate(2, train, update)[0]


def test_a_stopped_replica_is_named_after_the_short_deadline(mortals, tmp_path):
    actors, pids = mortals

    def wait():
        os.environ["DISTOPT_DEADLINES"] = "warn=0.5,silent=1,end=600"
        strategy = distopt.Strategy(distopt.get_strategy().communicator)
        with strategy.scope():
            distopt.barrier()
            (tmp_path / str(distopt.replica_index())).touch()
            while True:
                distopt.barrier()

    futures = [actor.replica.remote(r, 3, "one stops", wait) for r, actor in enumerate(actors)]
    while len(os.listdir(tmp_path)) < 3:
        time.sleep(0.05)
    os.kill(pids[2], signal.SIGSTOP)
    began = time.monotonic()
    first, second = causes(futures[:2])
    os.kill(pids[2], signal.SIGKILL)
    assert time.monotonic() - began < SOON
    for error in (first, second):
        assert isinstance(error, ReplicaError)
        assert f"replica 2, which is stopped (process {pids[2]}" in str(error)


def meeting_of(group, count):
    """The actor at which a group meets: the first who asks makes it, and it ends when they drop the handle."""
    return Rendezvous(group, 0, count, 60)._find()


def test_who_does_not_come_is_named(actors):
    def alone():
        groups.MEET_SECONDS = 2.0
        try:
            distopt.ray.init_group(0, 3, "nobody comes")
        finally:
            groups.MEET_SECONDS = 60.0

    meeting = meeting_of("nobody comes", 3)
    assert ray.get(meeting.missing.remote(0), timeout=60) == [0, 1, 2]  # it runs: starting it takes seconds at times
    (error,) = causes([actors[0].call.remote(alone)])
    assert isinstance(error, ReplicaError)
    assert "has waited 2 s for replica 1, 2 of 3" in str(error)


@pytest.mark.parametrize(
    ("index", "count", "complaint"),
    [
        pytest.param(0, 2, "there is another replica 0 already", id="the same index"),
        pytest.param(1, 3, "it says that there are 3 replicas, and another one has said 2", id="another count"),
    ],
)
def test_who_contradicts_is_refused_and_harms_nobody(actors, index, count, complaint):
    meeting = meeting_of(complaint, 2)
    first = actors[0].replica.remote(0, 2, complaint, distopt.replica_index)
    while ray.get(meeting.missing.remote(0), timeout=60) != [1]:
        time.sleep(0.05)
    (error,) = causes([actors[1].replica.remote(index, count, complaint, distopt.replica_index)])
    assert isinstance(error, InvalidArgumentError)
    assert complaint in str(error)
    second = actors[2].replica.remote(1, 2, complaint, distopt.replica_index)
    assert ray.get([first, second], timeout=60) == [0, 1]


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 0), (0.0, 2)])
def test_an_index_that_can_not_be_is_refused(index, count):
    with pytest.raises(InvalidArgumentError, match="expected 0 <= index < count"):
        distopt.ray.init_group(index, count, "wrong")
