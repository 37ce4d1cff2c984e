"""Replicas save and restore together, or hear why not; files hold each part once."""

import json

import numpy as np
import pytest
from parallel.caught import caught, warned
from parallel.steps.checkpointed import EXACT, STOP, stop, within

import distopt
from distopt import Variable
from distopt.checkpoint import Checkpointer
from distopt.errors import CheckpointError, CollectiveMismatchError, DamagedOptimizerError
from distopt.optimizers import SGD, legacy


def test_saving_on_one_replica_only_is_an_error_everywhere(several, directory):
    def save():
        v = Variable([1.0], name="v")
        checkpointer = Checkpointer(directory, variables=[v])
        return caught(checkpointer.save if distopt.replica_index() == 0 else distopt.barrier)

    for failure in several(save):
        assert failure.kind is CollectiveMismatchError
        assert "call: replica 0: Checkpointer.save" in failure.text
    assert not list(directory.iterdir())


def test_states_that_differ_are_no_checkpoint(several, directory):
    def save():
        v, w = Variable([1.0], name="v"), Variable([distopt.replica_index()], name="w")
        checkpointer = Checkpointer(directory, variables=[v, w])
        failure = caught(checkpointer.save)
        distopt.broadcast([w])
        checkpointer.save()
        checkpointer.wait()
        return failure

    for failure in several(save):
        assert failure.kind is CheckpointError
        assert "replica 1 has other values than replica 0, first in 'variables/w'" in failure.text
    assert [path.name for path in directory.iterdir()] == ["step-00000002"]


def test_a_bad_file_sends_all_replicas_back_to_the_same_step(replicas, directory):
    def save():
        v = Variable(np.arange(9000.0), name="v")
        with Checkpointer(directory, variables=[v]) as checkpointer:
            for _ in range(3):
                v.assign_add(np.ones(9000))
                checkpointer.save()

    def restore():
        v = Variable(np.zeros(9000), name="v")
        return Checkpointer(directory, variables=[v]).restore(), float(v.numpy()[8000])

    replicas(save)
    if distopt.replica_index() == 0:
        path = directory / "step-00000003" / f"part-{replicas.count - 1:05}.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    replicas(distopt.barrier)
    results, messages = warned(replicas, restore)
    assert results == [(2, 8002.0)] * replicas.count
    assert len(messages) == 1
    assert "went back to step 2, for the checkpoint of step 3 is damaged" in messages[0]
    assert f"part-{replicas.count - 1:05}.safetensors has the checksum" in messages[0]


@pytest.mark.parametrize("family", EXACT)
def test_a_damaged_optimizer_is_good_again_after_a_restore(replicas, directory, family):
    def run():
        v = Variable([1.0, 2.0], name="v")
        fails = []

        def transformer(pairs):
            if fails:
                raise ValueError("boom")
            return pairs

        make = {"Keras 3": SGD, "legacy": legacy.SGD}[family]
        optimizer = make(0.5, momentum=0.5, gradient_transformers=[transformer])
        checkpointer = Checkpointer(directory, optimizer=optimizer)
        optimizer.apply_gradients([([1.0, 1.0], v)])
        checkpointer.save()
        bits = [distopt.digest([v]), *map(str, optimizer.get_weights())]
        fails.append(True)
        broken = caught(optimizer.apply_gradients, [([1.0, 1.0], v)])
        fails.clear()
        distopt.barrier()
        damaged = caught(optimizer.apply_gradients, [([1.0, 1.0], v)])
        cannot_save = caught(checkpointer.save)
        assert checkpointer.restore() == 1
        assert bits == [distopt.digest([v]), *map(str, optimizer.get_weights())]
        optimizer.apply_gradients([([1.0, 1.0], v)])
        return broken.kind, damaged.kind, cannot_save.kind, int(optimizer.iterations)

    expected = (ValueError, DamagedOptimizerError, DamagedOptimizerError, 2)
    assert replicas(run) == [expected] * replicas.count


def test_files_hold_each_replicas_part_once(placed, directory):
    placed(within, "shared", stop, "AMSGrad", directory)
    manifest = json.loads((directory / f"step-{STOP:08}" / "manifest.json").read_text())["manifest"]
    sizes = [sum(end - begin for _, begin, end in file["pieces"]) for file in manifest["files"]]
    total = sum(int(np.prod(entry["shape"])) for entry in manifest["variables"].values())
    assert sum(sizes) == total
    assert len(sizes) == placed.count
    assert sum(size > 0 for size in sizes) >= 2
