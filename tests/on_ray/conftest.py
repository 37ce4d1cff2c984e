"""One Ray cluster for all tests of this directory: it takes seconds to start."""

import os
import tempfile
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")

os.environ |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_METRICS_ENABLED": "0"}
os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # a process less, and each takes two seconds to start
os.environ["KERAS_BACKEND"] = "torch"
# Functions of test modules travel by name.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")])
)


@pytest.fixture
def ray_directory():
    """Where a head that is started by a command writes, its address among it: else other drivers would look for it."""
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as path:  # paths must be short
        yield path


@pytest.fixture(scope="session")
def cluster():
    """A local cluster with more CPUs than the machine has: replicas wait most of the time."""
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
