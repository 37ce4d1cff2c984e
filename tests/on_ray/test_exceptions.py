"""Exceptions that pickle loses, and those of threads: what the user sees of them."""

import importlib
import pickle
import shutil
import sys
import threading
import time

import pytest
import ray
from on_ray.actors import Actor
from ray.train import RunConfig, ScalingConfig, WorkerGroupError
from support import DISTOPT, SOON, run, script_file

import distopt
import distopt.ray
from distopt.errors import CarriedError, InvalidArgumentError, ReplicaFailedError
from distopt.ray.portable import make_portable

pytestmark = pytest.mark.timeout(300)


class TakesNothingError(Exception):
    def __init__(self):
        super().__init__("the disk is full")


class OnlyByKeywordError(Exception):
    def __init__(self, *, disk):
        super().__init__(f"the {disk} is full")


class HoldsALockError(Exception):
    def __init__(self, disk):
        super().__init__(f"the {disk} is full")
        self.lock = threading.Lock()


class ReducedError(Exception):
    """Its pickle is right, and forgets notes."""

    def __init__(self, *, disk):
        super().__init__(f"the {disk} is full")
        self.disk = disk

    def __reduce__(self):
        return _reduced, (self.disk,)


class RefusedError(Exception):
    def __reduce__(self):
        raise RuntimeError("never")


def _reduced(disk):
    return ReducedError(disk=disk)


def local():
    class LocalError(ValueError):
        def __init__(self, a, b):
            super().__init__(f"the {a}{b} is full")

    return LocalError("di", "sk")


EXCEPTIONS = {
    "takes nothing": TakesNothingError,
    "only by keyword": lambda: OnlyByKeywordError(disk="disk"),
    "a lock": lambda: HoldsALockError("disk"),
    "a local class": local,
    "refuses": lambda: RefusedError("the disk is full"),
}


def raised(error):
    try:
        raise error
    except Exception as caught:
        make_portable(caught)
        return caught


@pytest.mark.parametrize("kind", EXCEPTIONS)
def test_what_pickle_loses_arrives_as_text_and_traceback(kind):
    error = raised(EXCEPTIONS[kind]())
    for arrived in (pickle.loads(pickle.dumps(error)), pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))):
        assert isinstance(arrived, CarriedError)
        text = str(arrived)
        assert "the disk is full" in text
        assert f"{type(error).__name__} itself can't travel between processes: " in text
        assert "line" in text
        assert "in raised" in text


def test_what_pickle_keeps_arrives_as_it_is_with_its_notes():
    error = ReducedError(disk="disk")
    error.add_note("seen on Monday")
    arrived = pickle.loads(pickle.dumps(raised(error)))
    assert isinstance(arrived, ReducedError)
    assert (arrived.disk, str(arrived), arrived.__notes__) == ("disk", "the disk is full", ["seen on Monday"])


def test_a_class_of_a_module_that_is_missing_where_it_arrives(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("class Full(Exception):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    data = pickle.dumps(raised(importlib.import_module("only_here").Full("the disk is full")))
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "only_here", raising=False)
    arrived = pickle.loads(data)
    assert isinstance(arrived, CarriedError)
    assert "only_here.Full: the disk is full" in str(arrived)
    assert "ModuleNotFoundError: No module named 'only_here'" in str(arrived)


def test_a_chain_of_notes_and_causes_is_in_the_text():
    error = OnlyByKeywordError(disk="disk")
    error.__cause__ = OSError("no space left")
    assert "no space left" in str(pickle.loads(pickle.dumps(raised(error))))


@pytest.fixture(scope="module")
def actors(cluster):
    several = [Actor.remote() for _ in range(2)]
    ray.get([actor.pid.remote() for actor in several])
    yield several
    for actor in several:
        ray.kill(actor)


def test_what_an_actor_raises_inside_a_group_is_told_whatever_it_is(actors):
    def fail(kind):
        raise EXCEPTIONS[kind]()

    for kind in EXCEPTIONS:
        with pytest.raises(Exception, match="the disk is full") as caught:
            ray.get(actors[0].replica.remote(0, 1, kind, fail, kind), timeout=60)
        assert isinstance(caught.value, ray.exceptions.RayTaskError)
        assert "in fail" in str(caught.value)


def die_in_a_thread():
    def load():
        raise OnlyByKeywordError(disk="disk")

    loader = threading.Thread(target=load, name="loader")
    loader.start()
    loader.join()


def test_an_exception_in_a_thread_of_a_replica_is_one_of_the_replica(actors):
    def catches_nothing():
        distopt.barrier()
        if distopt.replica_index() == 1:
            die_in_a_thread()
        distopt.barrier()

    def waits_for_the_thread():
        distopt.barrier()
        if distopt.replica_index() == 1:
            die_in_a_thread()
            threading.Event().wait()
        distopt.barrier()

    def ends():
        if distopt.replica_index() == 1:
            die_in_a_thread()

    for fn in (catches_nothing, ends, waits_for_the_thread):
        began = time.monotonic()
        futures = [actor.replica.remote(r, 2, fn.__name__, fn) for r, actor in enumerate(actors)]
        with pytest.raises(ReplicaFailedError) as caught:
            ray.get(futures, timeout=60)
        assert time.monotonic() - began < SOON
        text = str(caught.value)
        assert "replica 1 failed: in thread 'loader':" in text
        assert "OnlyByKeywordError: the disk is full" in text
        assert "in load" in text


def test_a_group_of_one_raises_what_its_thread_raised(actors):
    with pytest.raises(ReplicaFailedError, match="replica 0 failed: in thread 'loader'"):
        ray.get(actors[0].replica.remote(0, 1, "alone", die_in_a_thread), timeout=60)


def fit(loop, tmp_path, config=None):
    return distopt.ray.DistoptTrainer(
        loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=str(tmp_path)),
    ).fit()


@pytest.mark.slow
def test_what_the_training_function_raises_is_told_whatever_it_is(cluster, tmp_path):
    def loop():
        distopt.barrier()
        if distopt.replica_index() == 1:
            raise OnlyByKeywordError(disk="disk")
        distopt.barrier()

    with pytest.raises(WorkerGroupError) as caught:
        fit(loop, tmp_path)
    text = str(caught.value)
    assert "replica 1 failed first:\nTraceback" in text
    assert "in loop" in text
    assert "OnlyByKeywordError: the disk is full" in text


def test_a_thread_that_the_training_function_waits_for(cluster, tmp_path):
    def loop():
        distopt.barrier()
        if distopt.replica_index() == 1:
            (tmp_path / "dies").touch()
            die_in_a_thread()
        threading.Event().wait()

    with pytest.raises(WorkerGroupError) as caught:
        fit(loop, tmp_path / "storage")
    assert time.time() - (tmp_path / "dies").stat().st_mtime < SOON
    text = str(caught.value)
    assert "replica 1 failed first:\nin thread 'loader':\nTraceback" in text
    assert "in load" in text
    assert "OnlyByKeywordError: the disk is full" in text


GUARD = threading.Lock()


def test_what_can_not_be_sent_to_the_workers_is_named(cluster, tmp_path):
    guard = GUARD

    def loop():
        with guard:
            distopt.barrier()

    with pytest.raises(InvalidArgumentError, match=r"'.*loop' uses 'guard' \(a lock\), which can't be sent .*make it"):
        fit(loop, tmp_path)
    with pytest.raises(InvalidArgumentError, match=r"train_loop_config\['guard'\], a lock, can't be sent"):
        fit(lambda config: None, tmp_path, {"steps": 3, "guard": GUARD})


@pytest.mark.slow
@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_job_ends_with_the_text_and_a_status(where, cluster, tmp_path):
    (tmp_path / "neighbour.py").write_text(
        "class Full(Exception):\n    def __init__(self, *, disk): super().__init__(f'the {disk} is full')\n"
    )
    script = """
import sys, threading, distopt
from neighbour import Full
def load(): raise Full(disk="disk")
distopt.barrier()
if distopt.replica_index() == 1:
    if sys.argv[1] == "main": load()
    threading.Thread(target=load, name="loader").start()
    threading.Event().wait()
distopt.barrier()
"""
    there = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with script_file(script) as path:
        shutil.copy(tmp_path / "neighbour.py", path.parent)
        result = run([DISTOPT, "run", "--backend", "ray", "-n", "2", path, where], timeout=150, env=there)
    assert result.status == 1, result.text
    assert "\nReplica 1 failed:\n" in result.errors
    assert result.errors.rstrip().endswith("neighbour.Full: the disk is full"), result.text
