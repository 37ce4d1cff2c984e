"""Jobs that are killed, preempted or out of room: the run goes on where it was, to the bits of an undisturbed one."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import DISTOPT, mpirun_command, run_replicas, script_file, started

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}
CYCLES = int(os.environ.get("DISTOPT_CHAOS_CYCLES", "4"))

pytestmark = pytest.mark.timeout(100 + 5 * CYCLES)

JOB = """
import os, resource, signal, sys, threading, warnings
import numpy as np
import distopt
from distopt.checkpoint import Checkpointer

warnings.simplefilter("always")
directory, steps, plan, *numbers = sys.argv[1:]
start = np.random.default_rng(0)
w = distopt.Variable(start.normal(size=300_000), dtype="float32", name="w")
b = distopt.Variable(start.normal(size=7), name="b")
optimizer = distopt.optimizers.Adam(0.01)
data = distopt.data.batches(np.arange(31), global_batch_size=3, epochs=1000, seed=4)
rng = np.random.default_rng([6, distopt.replica_index()])
me, last = distopt.replica_index(), int(steps)

def limit_files(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

with Checkpointer(directory, optimizer=optimizer, variables=[w, b], data=data, random=[rng]) as checkpointer:
    restored = checkpointer.restore()
    if me == 0:
        print("restored", restored, flush=True)
    if plan == "kill" and me == int(numbers[0]):
        threading.Timer(float(numbers[1]), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    for batch in data if (restored or 0) < last else []:
        scale = float(batch.arrays.sum()) + rng.normal()
        optimizer.apply_gradients([(np.full(300_000, scale, "float32"), w), (np.full(7, scale), b)])
        step = int(optimizer.iterations)
        if plan == "full" and me == 1:
            limit_files(100_000 if step == int(numbers[0]) else resource.RLIM_INFINITY)
        checkpointer.save_every(2)
        if plan == "full":
            try:
                if step == int(numbers[0]):
                    checkpointer.wait() if numbers[1] == "wait" else checkpointer._writer._thread.join()
            except distopt.errors.CheckpointError as error:
                sys.stdout.write(f"replica {me}: {error}\\n")
        if plan == "slow":
            threading.Event().wait(0.02)
        if plan == "raise" and step == 3 and me == 1:
            raise ValueError("boom")
        if me == 0:
            print("step", step, flush=True)
        if step == last:
            break
    checkpointer.save()
sys.stdout.write(f"digest {distopt.digest([w, b, *optimizer.get_weights()])} {rng.random()}\\n")
"""


def digests(result):
    assert result.status == 0, result.text
    return sorted(re.findall(r"^digest .*$", result.output, re.MULTILINE))


def steps_of(directory):
    return sorted(path.name for path in Path(directory).iterdir())


def job(replicas, directory, *arguments, update="replicated"):
    environment = {"DISTOPT_UPDATE": update} | ENVIRONMENT
    return run_replicas(replicas, JOB, [str(directory), *map(str, arguments)], env=environment)


def undisturbed(replicas, directory, steps):
    found = digests(job(replicas, directory / "undisturbed", steps, "run"))
    assert len(found) == replicas
    return found


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_kill_and_resume(tmp_path, count):
    expected, directory = undisturbed(count, tmp_path, 40), tmp_path / "killed"
    chance = random.Random(count)
    killed = 0
    for _ in range(CYCLES):
        seconds, victim = chance.choice([0.002, 0.01, 0.03, 0.1]), chance.randrange(count)
        update = chance.choice(["replicated", "shared"])
        result = job(count, directory, 40, "kill", victim, seconds, update=update)
        killed += result.status != 0
        if result.status == 0:  # quicker than the signal: that one is done
            assert digests(result) == expected
            shutil.rmtree(directory)
    assert killed
    assert digests(job(count, directory, 40, "run")) == expected
    assert all(name.startswith("step-") for name in steps_of(directory))


@pytest.mark.parametrize("update", ["replicated", "shared"])
def test_preemption_by_sigusr1(tmp_path, monkeypatch, update):
    monkeypatch.setitem(ENVIRONMENT, "DISTOPT_UPDATE", update)
    expected = undisturbed(2, tmp_path, 60)
    result = told_to_stop(mpirun_command(2), tmp_path / "stopped", signal.SIGUSR1)
    step = int(re.search(r"saved step (\d+) in \S+; stopping on request .* the same command", result.output)[1])
    assert steps_of(tmp_path / "stopped")[-1] == f"step-{step:08}"
    assert "digest" not in result.output
    assert step < 60
    again = job(2, tmp_path / "stopped", 60, "run")
    assert f"restored {step}\n" in again.output
    assert digests(again) == expected


def test_preemption_by_sigterm_through_distopt_run(tmp_path):
    told_to_stop([DISTOPT, "run", "-n", "2"], tmp_path, signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_preemption_of_one_process(tmp_path, number):
    told_to_stop([sys.executable], tmp_path, number)


def told_to_stop(launcher, directory, request):
    """The result of a job without end that gets a signal."""
    command = [str(directory), "100000", "slow"]
    with script_file(JOB) as path, started([*launcher, path, *command], env=ENVIRONMENT) as it:
        it.wait_for("step 5\n")
        it.process.send_signal(request)
        result = it.wait()
    assert result.status == 0, result.text
    assert f"; stopping on request ({request.name}). Run the same command again" in result.output, result.text
    return result


def test_a_replica_that_fails_ends_those_that_handle_signals_too(tmp_path):
    result = job(3, tmp_path, 100000, "raise")
    assert result.status != 0
    assert "ValueError: boom" in result.errors
    assert steps_of(tmp_path)[0] == "step-00000002"


@pytest.mark.parametrize("learns", ["wait", "save"])
def test_a_part_that_can_not_be_written(tmp_path, learns):
    expected = undisturbed(3, tmp_path, 9)
    directory = tmp_path / "full"
    result = job(3, directory, 9, "full", 4, learns)
    assert digests(result) == expected
    said = (
        rf"the checkpoint of step 4 could not be written in {directory}: OSError: (replica 1: OSError: )?\[Errno 27\] "
        r"File too large.*; the last good one is that of step 2"
    )
    if learns == "wait":
        for replica in range(3):
            assert re.search(rf"replica {replica}: {said}", result.output), result.text
    else:
        assert len(re.findall(rf"UserWarning: {said}", result.errors)) == 1, result.text
    assert steps_of(directory) == ["step-00000006", "step-00000008", "step-00000009"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of ten megabytes: room for two checkpoints, and not for three."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=9m", "none", path]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_full_disk_keeps_the_last_good_checkpoint(small_disk):
    result = job(2, small_disk / "checkpoints", 8, "run")
    assert result.status != 0
    assert "No space left on device" in result.errors
    assert "the last good one is that of step 4" in result.errors
    assert steps_of(small_disk / "checkpoints") == ["step-00000002", "step-00000004"]
    assert "restored 4" in job(2, small_disk / "checkpoints", 5, "run").output
