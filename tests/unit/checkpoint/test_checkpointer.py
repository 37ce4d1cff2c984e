"""What a checkpoint is to its user: when it is written, what it refuses, which ones stay."""

import contextlib
import io
import json
import random
import sys
import threading

import numpy as np
import pytest
from support import ROOT, run, run_replicas
from unit.checkpoint.saving import generators, saved, step, steps_of

import distopt
from distopt import Strategy, Variable, simulate
from distopt.checkpoint import Checkpointer
from distopt.checkpoint import writer as writing
from distopt.data import batches
from distopt.errors import CheckpointError, ForeignVariableError, InvalidArgumentError
from distopt.optimizers import SGD, Adam, legacy
from distopt.process.replica import current_replica


def test_nothing_to_restore(tmp_path):
    assert Checkpointer(tmp_path / "none", variables=[Variable([0.0])]).restore() is None
    assert Checkpointer(tmp_path, variables=[Variable([0.0])]).restore() is None


# In the background


def test_save_copies_and_returns(tmp_path, monkeypatch):
    began, release = threading.Event(), threading.Event()

    def slowly(write, do=writing._write):
        began.set()
        assert release.wait(30)
        do(write)

    monkeypatch.setattr(writing, "_write", slowly)
    v = Variable(np.arange(10.0), name="v")
    checkpointer = Checkpointer(tmp_path, variables=[v])
    checkpointer.save()
    assert began.wait(30)
    v.assign(np.zeros(10))
    assert not list(tmp_path.iterdir())
    release.set()
    checkpointer.wait()
    checkpointer.restore()
    np.testing.assert_array_equal(v.numpy(), np.arange(10.0))


def test_only_the_newest_stay(tmp_path):
    v = Variable([0.0], name="v")
    with Checkpointer(tmp_path, variables=[v], keep=2) as checkpointer:
        for k in range(5):
            v.assign([k])
            checkpointer.save()
    assert steps_of(tmp_path) == ["step-00000004", "step-00000005"]


def test_save_every_saves_where_the_step_is_a_multiple(tmp_path):
    w, optimizer = Variable([0.0], name="w"), SGD(1.0)
    with Checkpointer(tmp_path, optimizer=optimizer, keep=9) as checkpointer:
        for _ in range(7):
            step(optimizer, w)
            checkpointer.save_every(3)
    assert steps_of(tmp_path) == ["step-00000003", "step-00000006"]


def test_the_same_step_again_replaces_it(tmp_path):
    v, optimizer = Variable([0.0], name="v"), SGD(1.0)
    step(optimizer, v)
    with Checkpointer(tmp_path, optimizer=optimizer) as checkpointer:
        checkpointer.save()
        v.assign([7.0])
        checkpointer.save()
    assert steps_of(tmp_path) == ["step-00000001"]
    v.assign([0.0])
    checkpointer.restore()
    assert v.numpy() == 7


def test_what_killed_runs_have_left_is_removed_or_put_back(tmp_path):
    v = Variable([5.0], name="v")
    saved(tmp_path, variables=[v])
    (tmp_path / "step-00000001").rename(tmp_path / ".step-00000001-0123.old")
    (tmp_path / ".step-00000002-4567.tmp").mkdir()
    (tmp_path / ".step-00000002-4567.tmp" / "part-00000.safetensors").write_bytes(b"half")
    (tmp_path / "notes").mkdir()
    checkpointer = Checkpointer(tmp_path, variables=[v])
    assert checkpointer.restore() == 1
    checkpointer.save()
    checkpointer.wait()
    assert steps_of(tmp_path) == ["notes", "step-00000001", "step-00000002"]


def test_a_run_that_did_not_restore_does_not_mix_with_what_is_there(tmp_path):
    v = Variable([0.0], name="v")
    with Checkpointer(tmp_path, variables=[v]) as checkpointer:
        checkpointer.save()
        checkpointer.save()
    with pytest.raises(CheckpointError, match="holds a checkpoint of step 2, and this run saves step 1 without"):
        Checkpointer(tmp_path, variables=[v]).save()


def test_what_is_under_way_at_the_end_of_the_process_is_completed(tmp_path):
    script = (
        "import sys, distopt\n"
        "from distopt.checkpoint import Checkpointer\n"
        "v = distopt.Variable([1.0] * 3_000_000, name='v')\n"
        "checkpointer = Checkpointer(sys.argv[1], variables=[v])\n"
        "checkpointer.save()\n"
    )
    (tmp_path / "script.py").write_text(script)
    result = run([sys.executable, tmp_path / "script.py", tmp_path / "checkpoints"])
    assert result.status == 0, result.text
    assert steps_of(tmp_path / "checkpoints") == ["step-00000001"]


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to save"),
        ({"optimizer": "Adam"}, "expected an optimizer of distopt"),
        ({"variables": [1.0], "keep": 0}, "keep = 0: expected an int, 1 or more"),
        ({"variables": [1.0], "keep": True}, "keep = True: expected an int, 1 or more"),
        ({"variables": [1.0], "keep": 2.0}, "keep = 2.0: expected an int, 1 or more"),
        ({"variables": [1.0], "random": np.random.default_rng()}, "write \\(rng,\\) for one"),
        ({"variables": [1.0], "random": [3]}, "3 is no random generator"),
        ({"variables": [1.0], "data": [1, 2]}, "expected distopt.data.batches"),
    ],
)
def test_arguments(tmp_path, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Checkpointer(tmp_path, **options)


def test_variables_are_found_by_names_of_their_own(tmp_path):
    twins = [Variable([0.0], name="w"), Variable([0.0], name="w")]
    with pytest.raises(InvalidArgumentError, match="two variables are called 'w'"):
        Checkpointer(tmp_path, variables=twins).save()
    with pytest.raises(InvalidArgumentError, match=r"holds distopt\.Variables, received 1\.0"):
        Checkpointer(tmp_path, variables=[1.0]).save()
    with pytest.raises(InvalidArgumentError, match="are not known before its first step"):
        Checkpointer(tmp_path, optimizer=legacy.SGD()).save()
    foreign = simulate(1, lambda: Variable([0.0]))[0]
    with pytest.raises(ForeignVariableError):
        Checkpointer(tmp_path, variables=[foreign]).save()
    assert not list(tmp_path.iterdir())


def test_unknown_and_missing_variables_are_listed_and_nothing_is_written(tmp_path):
    saved(tmp_path, variables=[Variable([1.0], name="a"), Variable([1.0], name="b"), Variable([1, 2], name="c")])
    a, c = Variable([0.0], name="a"), Variable([0.0], name="c")
    with pytest.raises(CheckpointError) as caught:
        Checkpointer(tmp_path, variables=[a, c, Variable([0.0], name="d")]).restore()
    text = str(caught.value)
    assert "variables/b: only in the checkpoint" in text
    assert "variables/d: not in the checkpoint" in text
    assert "variables/c: float32[2] in the checkpoint, float32[1] here" in text
    assert a.numpy() == 0


def test_another_optimizer_is_refused(tmp_path):
    w, optimizer = Variable([0.0], name="w"), Adam()
    step(optimizer, w)
    saved(tmp_path, optimizer=optimizer)
    with pytest.raises(CheckpointError, match="slots/w/velocity: only in the checkpoint"):
        Checkpointer(tmp_path, optimizer=SGD(momentum=0.5), variables=[w]).restore()
    with pytest.raises(CheckpointError, match="variables/w: only in the checkpoint"):
        Checkpointer(tmp_path, optimizer=Adam(), variables=[Variable([0.0], name="v")]).restore()


def test_other_data_and_generators_are_refused(tmp_path):
    v = Variable([0.0], name="v")
    saved(tmp_path, variables=[v], data=batches(np.arange(9), global_batch_size=2, seed=1), random=[random.Random(1)])
    data = batches(np.arange(9), global_batch_size=2, seed=2)
    with pytest.raises(CheckpointError, match="an order with seed = 1, and here it is 2"):
        Checkpointer(tmp_path, variables=[v], data=data, random=[random.Random(1)]).restore()
    with pytest.raises(CheckpointError, match="another kind of generator"):
        Checkpointer(tmp_path, variables=[v], random=[np.random.default_rng(1)]).restore()
    with pytest.raises(CheckpointError, match="holds 1 random states, and random= 2"):
        Checkpointer(tmp_path, variables=[v], random=generators()[:2]).restore()
    with pytest.warns(UserWarning, match="restored without data and random, which the checkpoint holds"):
        assert Checkpointer(tmp_path, variables=[v]).restore() == 1
    saved(tmp_path / "without", variables=[v])
    with pytest.raises(CheckpointError, match="holds no position in the data"):
        Checkpointer(tmp_path / "without", variables=[v], data=batches(np.arange(9), global_batch_size=2)).restore()


def test_a_request_to_stop_is_kept_after_the_step(tmp_path, capsys):
    w, optimizer = Variable([0.0], name="w"), SGD(1.0)
    checkpointer = Checkpointer(tmp_path, optimizer=optimizer)
    with contextlib.suppress(SystemExit), checkpointer:
        for _ in range(9):
            step(optimizer, w)
            checkpointer.save_every(100)
            current_replica().stop_requested = int(optimizer.iterations) == 3
    assert int(optimizer.iterations) == 4
    assert steps_of(tmp_path) == ["step-00000004"]
    assert "saved step 4 in" in capsys.readouterr().out


def test_a_request_to_stop_needs_no_standard_output(tmp_path, monkeypatch):
    w, optimizer = Variable([0.0], name="w"), SGD(1.0)
    broken = io.StringIO()
    broken.close()
    monkeypatch.setattr(sys, "stdout", broken)
    monkeypatch.setattr(current_replica(), "stop_requested", True)
    with Checkpointer(tmp_path, optimizer=optimizer) as checkpointer:
        step(optimizer, w)
        with pytest.raises(SystemExit):
            checkpointer.save_every(100)
    assert steps_of(tmp_path) == ["step-00000001"]


def test_replicas_stop_together(tmp_path):
    def run():
        w, optimizer = Variable([0.0], name="w"), SGD(1.0)
        checkpointer = Checkpointer(tmp_path, optimizer=optimizer)
        try:
            for k in range(9):
                current_replica().stop_requested = k == 4 and distopt.replica_index() == 1
                step(optimizer, w)
                checkpointer.save_every(100)
        except SystemExit as stop:
            return int(optimizer.iterations), stop.code

    assert simulate(3, run) == [(5, 0)] * 3
    assert steps_of(tmp_path) == ["step-00000005"]


def test_the_manifest_says_what_is_where(tmp_path):
    def save():
        with Strategy(distopt.get_strategy().communicator, update="shared").scope():
            w, optimizer = Variable(np.zeros((100, 200)), dtype="float32", name="w"), Adam()
            step(optimizer, w)
            saved(tmp_path, optimizer=optimizer)

    simulate(2, save)
    manifest = json.loads((tmp_path / "step-00000001" / "manifest.json").read_text())["manifest"]
    assert manifest["format"] == 1
    assert manifest["step"] == 1
    assert manifest["variables"]["variables/w"] == {"shape": [100, 200], "dtype": "float32"}
    assert manifest["trained"] == ["variables/w"]
    pieces = [piece for file in manifest["files"] for piece in file["pieces"] if piece[0] == "variables/w"]
    assert pieces == [["variables/w", 0, 8192], ["variables/w", 8192, 20000]]


def test_the_example_goes_on_to_the_same_bits(tmp_path):
    def learn(count, directory, steps):
        arguments = [str(tmp_path / directory), "--steps", str(steps)]
        result = run_replicas(count, ROOT / "examples" / "resume.py", arguments)
        assert result.status == 0, result.text
        return result.output.splitlines()

    (undisturbed,) = learn(2, "whole", 150)
    assert undisturbed.startswith("learned [")
    assert len(learn(2, "parts", 70)) == 1
    assert learn(2, "parts", 150) == ["going on after step 50", undisturbed]
    going_on, learned = learn(1, "parts", 400)
    assert going_on == "going on after step 150"
    assert learned.startswith("learned [1.0, -2.0, 0.5] in 400 steps")


def test_another_number_of_micro_steps_is_refused(tmp_path):
    def trained(micro_steps):
        x = Variable([1.0], name="x")
        sgd = SGD(0.5, gradient_accumulation_steps=micro_steps)
        sgd.apply_gradients([([1.0], x)])
        return sgd

    with Checkpointer(tmp_path, optimizer=trained(3)) as checkpointer:
        checkpointer.save()
    with pytest.raises(CheckpointError, match="items of 3 micro-steps: only in the checkpoint"):
        Checkpointer(tmp_path, optimizer=trained(2)).restore()
    assert Checkpointer(tmp_path, optimizer=trained(3)).restore() == 1


def test_byte_order_is_not_kept(tmp_path):
    x = Variable(np.array([1.0], ">f4"), name="x")
    y = Variable(np.array([1], np.int16), dtype=">i2", name="y")
    with Checkpointer(tmp_path, variables=[x, y]) as checkpointer:
        checkpointer.save()
    restored = Variable([0.0], name="x"), Variable(np.int16([0]), name="y")
    Checkpointer(tmp_path, variables=restored).restore()
    assert [v.numpy().tolist() for v in restored] == [[1.0], [1]]


def test_accumulation_of_zeros_goes_through_a_checkpoint(tmp_path):
    def begun(*gradients):
        x, y = Variable([0.0], name="x"), Variable([0.0], name="y")
        sgd = SGD(0.1, momentum=0.9, gradient_accumulation_steps=2)
        for gradient in gradients:
            sgd.apply_gradients([([gradient], x), ([1.0], y)])
        return x, y, sgd

    x, y, sgd = begun(1.0, 1.0, 0.0)
    with Checkpointer(tmp_path, optimizer=sgd) as checkpointer:
        checkpointer.save()
    x, y, sgd = begun(5.0)
    assert Checkpointer(tmp_path, optimizer=sgd).restore() == 3
    sgd.apply_gradients([(None, x), ([1.0], y)])
    np.testing.assert_allclose(x.numpy(), -0.19, rtol=1e-6)
