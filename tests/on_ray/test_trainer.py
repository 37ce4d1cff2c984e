"""Ray Train's trainer with distopt's replicas: results, failures, restarts, checkpoints, what does not fit."""

import os
import sys
import time

import numpy as np
import pytest
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from support import SOON, run

import distopt
import distopt.ray
from distopt.checkpoint import Checkpointer
from distopt.errors import InvalidArgumentError
from distopt.ray.capacity import missing

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("cluster")]
STEPS = 9


def trained(steps=STEPS, directory=None, kill_at=None):
    """Steps of a small problem, from the last checkpoint on; returns the digests of the steps that were done here."""
    random = np.random.default_rng(distopt.replica_index())
    gradients = random.normal(size=(steps, 1000)).astype("float32")
    w = distopt.Variable(np.zeros(1000, "float32"), name="w")
    optimizer = distopt.optimizers.Adam(0.1)
    checkpointer = directory and Checkpointer(directory, optimizer=optimizer, variables=[w])
    begin = (directory and distopt.ray.restore(checkpointer)) or 0
    digests = []
    for step in range(begin, steps):
        if step == kill_at and not begin and distopt.replica_index() == 1:
            os.kill(os.getpid(), 9)
        optimizer.apply_gradients([(gradients[step], w)])
        digests.append(distopt.digest([w]))
        if directory and step % 3 == 2:
            distopt.ray.report({"begin": begin, "digest": digests[-1], "step": step}, checkpointer)
    return digests


def fit(loop, replicas=2, config=None, **run):
    scaling = ScalingConfig(num_workers=replicas)
    return distopt.ray.DistoptTrainer(
        loop, train_loop_config=config or {}, scaling_config=scaling, run_config=RunConfig(**run)
    ).fit()


@pytest.mark.slow
def test_the_bits_are_those_of_simulated_replicas(tmp_path):
    def loop():
        strategy = distopt.get_strategy()
        place = strategy.location
        where = f"{distopt.replica_index()} of {distopt.num_replicas()}, {place.index_on_node} on node {place.node}"
        (tmp_path / f"replica {distopt.replica_index()}").write_text(f"{where}: {trained()}")

    scaling = ScalingConfig(num_workers=3)
    distopt.ray.DistoptTrainer(
        loop, scaling_config=scaling, run_config=RunConfig(storage_path=str(tmp_path / "storage"))
    ).fit()
    expected = distopt.simulate(3, trained)
    for r in range(3):
        assert (tmp_path / f"replica {r}").read_text() == f"{r} of 3, {r} on node 0: {expected[r]}"


@pytest.mark.slow
def test_the_first_error_is_what_the_user_sees(tmp_path):
    def loop(config):
        trained(3)
        if distopt.replica_index() == config["victim"]:
            raise ValueError("boom")
        trained(100_000)

    began = time.monotonic()
    with pytest.raises(WorkerGroupError) as caught:
        fit(loop, 2, {"victim": 1}, storage_path=str(tmp_path))
    assert time.monotonic() - began < SOON
    text = str(caught.value)
    assert "replica 1 failed first:" in text
    assert "ValueError: boom" in text
    assert "in loop" in text
    assert "ReplicaFailedError" not in text
    assert isinstance(caught.value.worker_failures[1], ValueError)


def test_a_killed_worker_is_started_again_and_the_bits_are_those_of_the_undisturbed_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def loop(config):
        trained(directory=config["directory"], kill_at=5)

    result = fit(
        loop,
        2,
        {"directory": "checkpoints"},  # of the directory in which the trainer was made
        storage_path=str(tmp_path / "storage"),
        failure_config=FailureConfig(max_failures=1),
        checkpoint_config=CheckpointConfig(num_to_keep=2),
    )
    assert result.metrics["begin"] == 3
    assert result.metrics["digest"] == distopt.simulate(2, trained)[0][-1]
    assert result.checkpoint is not None
    assert "step-00000009" in os.listdir(tmp_path / "checkpoints")


@pytest.mark.slow
def test_what_ray_train_kept_is_enough(tmp_path):
    def loop(config):
        attempt = config["directories"][int(ray.train.get_checkpoint() is not None)]
        trained(directory=attempt, kill_at=5)

    result = fit(
        loop,
        2,
        {"directories": [str(tmp_path / "first"), str(tmp_path / "second")]},
        storage_path=str(tmp_path / "storage"),
        failure_config=FailureConfig(max_failures=1),
    )
    assert result.metrics["begin"] == 3
    assert result.metrics["digest"] == distopt.simulate(2, trained)[0][-1]


@pytest.mark.slow
def test_elastic_workers_begin_with_those_that_fit(tmp_path):
    def loop():
        (tmp_path / f"replica {distopt.replica_index()} of {distopt.num_replicas()}").write_text(str(trained()))

    scaling = ScalingConfig(num_workers=(1, 4), resources_per_worker={"CPU": 3})  # the cluster has 8
    distopt.ray.DistoptTrainer(
        loop, scaling_config=scaling, run_config=RunConfig(storage_path=str(tmp_path / "storage"))
    ).fit()
    expected = distopt.simulate(2, trained)
    for r in range(2):
        assert (tmp_path / f"replica {r} of 2").read_text() == str(expected[r])


def test_a_job_that_does_not_fit_says_so_at_once():
    began = time.monotonic()
    with pytest.raises(InvalidArgumentError, match=r"20 workers need \{'CPU': 1\} each, and CPU is short: the 1 nodes"):
        fit(trained, 20)
    assert time.monotonic() - began < SOON


def test_another_version_of_ray_is_refused_by_name():
    script = "import ray; ray.__version__ = '2.61.1'; import distopt.ray; distopt.ray.DistoptTrainer"
    result = run([sys.executable, "-c", script])
    assert "DistoptError: distopt's trainer works with Ray 2.60.*, and this is 2.61.1" in result.errors


@pytest.mark.parametrize(
    ("workers", "needs", "nodes", "expected"),
    [
        (4, {"CPU": 1}, [{"CPU": 4}], None),
        (5, {"CPU": 1}, [{"CPU": 4}], "CPU is short"),
        (2, {"CPU": 3}, [{"CPU": 4}, {"CPU": 4}], None),
        (3, {"CPU": 3}, [{"CPU": 4}, {"CPU": 4}], "CPU is short"),
        (1, {"CPU": 1, "GPU": 1}, [{"CPU": 4}], "GPU is short"),
        (1, {"CPU": 1, "GPU": 1}, [{"CPU": 4}, {"GPU": 1}], "CPU and GPU is short"),
        (2, {"CPU": 0.5}, [{"CPU": 1.0}], None),
        (3, {}, [{"CPU": 1.0}], None),
    ],
)
def test_what_is_short(workers, needs, nodes, expected):
    complaint = missing(workers, needs, nodes)
    assert complaint is None if expected is None else expected in complaint
