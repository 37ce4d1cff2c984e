"""The Keras adapter under mpirun, one backend a process: its tests on every rank, a failure, the example."""

import importlib.util
import re
import sys

import pytest
from support import ROOT, mpirun_command, run, run_replicas

EXAMPLE = ROOT / "examples" / "digits_keras.py"
FOLDER = ROOT / "tests" / "frameworks" / "on_keras"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="needs keras")


@pytest.mark.parametrize("file", ["on_replicas.py", "writers.py"])
@pytest.mark.parametrize("backend", [pytest.param("torch", marks=pytest.mark.slow), "jax"])  # PyTorch's is tried on Ray
def test_the_tests_on_ranks(backend, file):
    command = [*mpirun_command(2), "-m", "pytest", "-q", "--only-mpi", FOLDER / file]
    env = {"KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiling is most of the time
    result = run(command, env=env, timeout=110)
    assert result.status == 0, result.text
    assert re.search(r"^\d+ passed", result.output, re.MULTILINE), result.text


def test_the_example_on_two_ranks():
    result = run_replicas(2, EXAMPLE, timeout=110)
    assert result.status == 0, result.text
    rows = dict(re.findall(r"^(\w[\w ]*?) {2,}(.+)$", result.output, re.MULTILINE))
    assert rows["replicas"].strip() == "2"
    assert float(rows["test accuracy"].removesuffix(" %")) >= 96
    assert len(EXAMPLE.read_text().splitlines()) < 60


def test_a_failure_on_one_replica_ends_all():
    script = """\
import keras, numpy as np, distopt
from distopt.adapters.keras import DistributedOptimizer, ReplicaCallback, Shares

class Failing(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2 and distopt.replica_index() == 1:
            raise OSError("the disk is full")

model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
model.compile(DistributedOptimizer("adam"), "mse")
model.fit(Shares(np.ones((9, 2)), np.ones(9), global_batch_size=2), verbose=0, callbacks=[ReplicaCallback(), Failing()])
print("went on")
"""
    result = run_replicas(2, script, env={"KERAS_BACKEND": "jax"})
    assert result.status != 0
    assert "the disk is full" in result.errors
    assert "went on" not in result.output


def test_without_keras_the_extra_is_named():
    script = "import sys; sys.modules['keras'] = None; import distopt.adapters.keras"
    result = run([sys.executable, "-c", script])
    assert "pip install 'distopt[keras]'" in result.errors
