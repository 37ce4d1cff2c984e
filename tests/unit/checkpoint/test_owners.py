"""Whose checkpoints they are: one job's and one optimizer's; a restore that is refused moves nothing."""

import contextlib
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from support import ROOT
from unit.checkpoint.saving import saved, step, steps_of

import distopt
from distopt import Variable, simulate
from distopt.checkpoint import Checkpointer
from distopt.data import batches
from distopt.errors import CheckpointError
from distopt.optimizers import Adam, AdamW, LossScaleOptimizer, ScheduleFreeAdamW, legacy

HOLDER = """
import sys, distopt
from distopt.checkpoint import Checkpointer
v = distopt.Variable([1.0], name="v")
with Checkpointer(sys.argv[1], variables=[v]) as checkpointer:
    checkpointer.restore()
    checkpointer.save()
    checkpointer.wait()
    print("saved", flush=True)
    sys.stdin.readline()
    checkpointer.save()
"""


@contextlib.contextmanager
def another_job(directory):
    """Yields a job of another process that saves into the directory, and waits for a line before it saves again."""
    command = [sys.executable, "-c", HOLDER, directory]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "saved\n"
        yield process
        process.communicate("go on\n", timeout=60)


def test_two_jobs_on_one_checkpoint_directory(tmp_path):
    v = Variable([0.0], name="v")
    late = Checkpointer(tmp_path, variables=[v])
    late.restore()
    with another_job(tmp_path) as other:
        with pytest.raises(CheckpointError, match="another job writes its checkpoints into"):
            late.save()
        reader = Checkpointer(tmp_path, variables=[v])
        assert reader.restore() == 1  # reading is no harm
    assert other.returncode == 0
    assert steps_of(tmp_path) == ["step-00000001", "step-00000002"]
    with pytest.raises(CheckpointError, match="another job writes there"):
        late.save()  # it began before those steps were saved
    assert late.restore() == 2
    late.save()
    late.wait()
    assert steps_of(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]


def test_a_job_that_was_killed_holds_nothing(tmp_path):
    with another_job(tmp_path) as other:
        other.kill()
        other.wait()
        with Checkpointer(tmp_path, variables=[Variable([0.0], name="v")]) as checkpointer:
            assert checkpointer.restore() == 1
            checkpointer.save()


def test_a_forked_child_holds_nothing(tmp_path):
    v = Variable([0.0], name="v")
    checkpointer = Checkpointer(tmp_path, variables=[v])
    checkpointer.save()
    checkpointer.wait()
    reading, writing_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing_end)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    checkpointer.__exit__(None, None, None)
    with another_job(tmp_path) as other:  # the child still lives
        pass
    os.close(writing_end)
    os.waitpid(child, 0)
    assert other.returncode == 0


def test_a_checkpoint_goes_into_no_other_optimizer(tmp_path):
    w, optimizer = Variable([5.0], name="w"), Adam(0.001)
    step(optimizer, w)
    saved(tmp_path, optimizer=optimizer)
    manifest = json.loads((tmp_path / "step-00000001" / "manifest.json").read_text())["manifest"]
    assert manifest["optimizer"]["classes"] == ["Adam"]
    assert manifest["optimizer"]["configuration"]["beta_1"] == 0.9
    before = w.numpy()
    for other in (ScheduleFreeAdamW(0.001), AdamW(0.001), legacy.Adam(0.001), LossScaleOptimizer(Adam(0.001))):
        with pytest.raises(CheckpointError, match=r"the optimizer: Adam in the checkpoint, \w+"):
            Checkpointer(tmp_path, optimizer=other, variables=[w]).restore()
        np.testing.assert_array_equal(w.numpy(), before)
        step(other, Variable([1.0], name="w"))  # it was not built for the other variables


def test_another_configuration_is_named(tmp_path):
    w, optimizer = Variable([5.0], name="w"), Adam(0.5, epsilon=1e-3)
    step(optimizer, w)
    saved(tmp_path, optimizer=optimizer)
    with pytest.warns(UserWarning, match="another configuration: epsilon = 0.001 in the checkpoint, 0.01 here"):
        Checkpointer(tmp_path, optimizer=Adam(0.25, epsilon=1e-2, name="other"), variables=[w]).restore()


def test_a_refused_restore_has_moved_nothing(tmp_path):
    v, a, b = Variable([0.0], name="v"), random.Random(1), np.random.default_rng(1)
    array = np.arange(9)
    data = batches(array, global_batch_size=2)
    next(iter(data))
    saved(tmp_path, variables=[v], data=data, random=[a, b], extra={"best": 1.0})
    v.assign([3.0])
    fresh, c, extra = batches(array, global_batch_size=2), random.Random(2), {"best": 2.0}
    before = fresh.state(), c.getstate()
    with pytest.raises(CheckpointError, match="another kind of generator"):
        Checkpointer(tmp_path, variables=[v], data=fresh, random=[c, np.random.RandomState(1)], extra=extra).restore()
    assert (fresh.state(), c.getstate()) == before
    assert extra == {"best": 2.0}
    assert v.numpy() == 3


def test_a_restore_that_one_replica_refuses_has_moved_nothing_on_any(tmp_path):
    def run(seed):
        v, generator = Variable([0.0], name="v"), random.Random(seed)
        return v, generator, Checkpointer(tmp_path, variables=[v], random=[generator])

    def save():
        _, _, checkpointer = run(1)
        with checkpointer:
            checkpointer.save()

    def restore():
        v, generator, checkpointer = run(2)
        if distopt.replica_index() == 1:
            checkpointer = Checkpointer(tmp_path, variables=[v], random=[np.random.default_rng(0)])
        before = generator.getstate()
        with pytest.raises(CheckpointError, match="another kind of generator"):
            checkpointer.restore()
        return generator.getstate() == before

    simulate(2, save)
    assert simulate(2, restore) == [True, True]
