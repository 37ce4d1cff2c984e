"""``distopt run``: jobs that fail start again, faults are injected, stops reach the replicas, receipts are written."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from failing.processes import that_do_not_end
from support import DISTOPT, run, script_file, started

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}
TRAINING = """
import os, sys, time
import numpy as np, distopt
from distopt.checkpoint import Checkpointer
directory, steps = sys.argv[1], int(sys.argv[2])
w = distopt.Variable(np.zeros(100, "float32"), name="w")
optimizer = distopt.optimizers.SGD(0.1, momentum=0.9)
with Checkpointer(directory, optimizer=optimizer, variables=[w]) as checkpointer:
    begin = checkpointer.restore() or 0
    distopt.print_once(f"begins after {begin}", flush=True)
    for step in range(begin, steps):
        optimizer.apply_gradients([(w.numpy() + step + distopt.replica_index(), w)])
        checkpointer.save_every(2)
        if step == 3:
            print(f"pid {os.getpid()} is training")
        if steps > 1000:
            time.sleep(0.01)
distopt.print_once(f"sum {w.numpy().astype('float64').sum().hex()}", flush=True)
"""
WAITING = """
import os, signal, sys, time
from distopt.process.launcher import launched
import distopt
def say(text):  # not print: a signal may come in the middle of one, and its handler says something too
    os.write(1, f"{text}\\n".encode())
if "deaf" in sys.argv: signal.signal(signal.SIGTERM, lambda *_: say("heard"))
distopt.barrier()
say(f"pid {os.getpid()} is waiting")
while True: time.sleep(0.05)
"""
SHORT_GRACE = "import sys\nfrom distopt.cli import job, run\njob.GRACE_SECONDS = 0.5\nrun.run()\n"


def command(*options, replicas=2):
    return [DISTOPT, "run", "-n", str(replicas), *options]


def pids(job):
    return [int(pid) for pid in re.findall(r"pid (\d+)", job.output)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What nine steps without a fault come to."""
    with script_file(TRAINING) as path:
        result = run([*command(), path, tmp_path_factory.mktemp("run"), "9"], env=ENVIRONMENT)
    assert result.status == 0, result.text
    return re.search(r"sum (\S+)", result.output)[1]


@pytest.mark.parametrize("fault", ["kill replica 1 at step 5", "raise replica 0 at step 7"])
def test_a_job_that_fails_starts_again_and_ends_in_the_same_bits(fault, undisturbed, tmp_path):
    with script_file(TRAINING) as path:
        result = run([*command("--max-restarts", "2", "--inject", fault), path, tmp_path, "9"], env=ENVIRONMENT)
    assert result.status == 0, result.text
    assert re.search(r"sum (\S+)", result.output)[1] == undisturbed
    assert re.findall(r"begins after (\d+)", result.output)[0] == "0"
    assert int(re.findall(r"begins after (\d+)", result.output)[1]) >= 2
    (why,) = re.findall(r"distopt run: starts again \(1 of at most 2\), since (.*)", result.errors)
    assert ("replica 1" in why and "SIGKILL" in why) if "kill" in fault else "injected: raise replica 0" in why


def test_it_gives_up_after_so_many_restarts():
    script = "import distopt\ndistopt.barrier()\nraise ValueError('the same every time')\n"
    with script_file(script) as path:
        result = run([*command("--max-restarts", "2"), path], env=ENVIRONMENT)
    assert result.status == 1
    assert re.findall(r"starts again \((\d) of at most 2\), since (.*)", result.errors) == [
        ("1", "ValueError: the same every time"),
        ("2", "ValueError: the same every time"),
    ]
    assert result.errors.rstrip().endswith("ValueError: the same every time")


def test_a_job_that_was_stopped_is_not_started_again():
    with script_file(WAITING) as path, started([*command("--max-restarts", "3"), path], env=ENVIRONMENT) as job:
        job.wait_for("is waiting", times=2)
        job.process.send_signal(signal.SIGINT)
        result = job.wait()
    assert result.status != 0
    assert "starts again" not in result.errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_script_with_a_checkpointer_saves_and_ends_well(number, tmp_path):
    with script_file(TRAINING) as path:
        with started([*command(), path, tmp_path, "100000"], env=ENVIRONMENT) as job:
            job.wait_for("is training", times=2)
            job.process.send_signal(number)
            result = job.wait()
        assert result.status == 0, result.text
        (saved,) = re.findall(r"saved step (\d+)", result.output)
        said = "" if number == signal.SIGUSR1 else f"distopt run: stopped by {number.name}"
        assert result.errors.strip() == said
        assert not that_do_not_end(pids(job))
        resumed = run([*command(), path, tmp_path, str(int(saved) + 1)], env=ENVIRONMENT)
    assert f"begins after {saved}" in resumed.output


def test_a_script_without_a_checkpointer_ends_at_once():
    with script_file(WAITING) as path, started([*command(), path], env=ENVIRONMENT) as job:
        job.wait_for("is waiting", times=2)
        job.process.send_signal(signal.SIGTERM)
        result = job.wait()
    assert result.status != 0
    assert result.errors.strip() == "distopt run: stopped by SIGTERM"


@pytest.mark.parametrize("end", ["the second signal", "the end of the grace period"])
def test_replicas_that_do_not_heed_a_request_to_stop_are_ended(end):
    with script_file(WAITING) as path, script_file(SHORT_GRACE) as short:
        patient = end == "the second signal"
        head = command() if patient else [sys.executable, short, *command()[2:]]
        with started([*head, path, "deaf"], env=ENVIRONMENT) as job:
            job.wait_for("is waiting", times=2)
            replicas = pids(job)
            job.process.send_signal(signal.SIGTERM)
            job.wait_for("heard", times=2)
            if patient:
                job.process.send_signal(signal.SIGTERM)
            result = job.wait()
    assert result.status != 0
    assert result.errors.strip().endswith("distopt run: stopped by SIGTERM")
    assert not that_do_not_end(replicas)


def test_a_receipt_is_written_where_it_is_asked_for(tmp_path):
    script = """
import os, numpy as np, distopt
os.chdir("/")
w = distopt.Variable(np.zeros(3, "float32"), name="w")
for _ in range(3): distopt.optimizers.SGD(0.1).apply_gradients([(np.ones(3, "float32"), w)])
"""
    with script_file(script) as path:
        result = run([*command("--receipt", "here"), path], env=ENVIRONMENT, cwd=tmp_path)
    assert result.status == 0, result.text
    assert sorted(os.listdir(tmp_path / "here")) == ["replica-0.jsonl", "replica-1.jsonl"]


def test_a_sentence_that_says_nothing_is_refused_before_anything_starts():
    result = run([*command("--inject", "kick replica 1 at step 5"), Path(__file__)])
    assert result.status != 0
    assert "kick" in result.errors
    assert "Traceback" not in result.errors
