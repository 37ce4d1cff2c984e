"""A program may close its streams, or lose them: a job with a failure ends all the same, and a healthy one goes on."""

from itertools import product

import pytest
from quick import cases
from support import DISTOPT, SOON, run, run_replicas, script_file

ENVIRONMENT = {
    "DISTOPT_KERNELS": "reference",
    "OPENBLAS_NUM_THREADS": "1",
    "DISTOPT_DEADLINES": "warn=0.5,silent=30,end=30",
    "PYTHONIOENCODING": "utf-8",
}
STREAMS = {
    "None": "sys.stdout = sys.stderr = None",
    "closed": "sys.stdout.close(); sys.stderr.close()",
    "closed at the start": "sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None",
    "without flush": "sys.stdout = sys.stderr = types.SimpleNamespace(write=lambda text: None)",
    "raising": "sys.stdout = sys.stderr = Raising()",
    "full": "to(os.open('/dev/full', os.O_WRONLY))",
    "without reader": "reading, writing = os.pipe(); os.close(reading); to(writing)",
    "ASCII": "sys.stdout = sys.stderr = open(2, 'w', encoding='ascii', closefd=False)",
}
LOST = ("closed at the start", "full", "without reader")
"""Those in which nothing comes out."""

ENDINGS = {
    "exception": "raise ValueError('b\\xf6\\xf6m \\udc80')",
    "exit": "sys.exit(3)",
    "thread": "threading.Thread(target=int, args=('b\\xf6\\xf6m',)).start(); threading.Event().wait()",
    "late": "time.sleep(1.5)  # what is warned of and comes",
    "stalled": "threading.Event().wait()",
}
JOB = """
import os, sys, threading, time, types
import numpy as np, distopt
class Raising:
    def write(self, text):
        raise RuntimeError("no writing")
    flush = isatty = write
def to(descriptor):
    print("before", flush=True)
    os.dup2(descriptor, 1), os.dup2(descriptor, 2)
w = distopt.Variable(np.zeros(3, "float32"), name="w")
optimizer = distopt.optimizers.SGD(0.1)
kept, streams = [os.dup(1), os.dup(2)], [sys.stdout, sys.stderr]
def step():
    optimizer.apply_gradients([(np.ones(3, "float32"), w)])
step()
{breaking}
if distopt.replica_index() == 1:
    {ending}
step()
os.dup2(kept[0], 1), os.dup2(kept[1], 2)
os.write(1, b"finished\\n")
sys.stdout, sys.stderr = [stream if not stream.closed else None for stream in streams]
"""


@pytest.mark.parametrize(
    ("stream", "ending"),
    cases(
        product(STREAMS, ENDINGS),
        quick=[
            ("None", "exception"),
            ("closed", "late"),
            ("closed at the start", "thread"),
            ("without flush", "exception"),
            ("raising", "stalled"),
            ("full", "late"),
            ("without reader", "exit"),
            ("ASCII", "exception"),
        ],
    ),
)
def test_a_job_whose_streams_are_broken_ends_as_any_other(stream, ending, tmp_path):
    limits = {"DISTOPT_DEADLINES": "warn=0.5,silent=1,end=1"} if ending == "stalled" else {}
    script = JOB.format(breaking=STREAMS[stream], ending=ENDINGS[ending])
    result = run_replicas(2, script, env=ENVIRONMENT | {"TMPDIR": str(tmp_path)} | limits)
    assert result.seconds < SOON
    if ending == "late":
        assert result.status == 0, result.text
        assert result.output.count("finished") == 2
    else:
        assert result.status == 3 if ending == "exit" else result.status != 0, result.text
        assert "finished" not in result.output
    if stream not in LOST and (stream, ending) != ("without flush", "late"):  # the user's own stream takes the warning
        assert {"late": "has waited", "stalled": "StalledError"}.get(ending, "Replica 1 failed") in result.errors


@pytest.mark.parametrize("stream", cases([(each,) for each in LOST], quick=[("full",)]))
def test_distopt_run_knows_what_could_not_be_printed(stream):
    script = JOB.format(breaking=STREAMS[stream], ending=ENDINGS["exception"])
    with script_file(script) as path:
        result = run([DISTOPT, "run", "-n", "2", path], env=ENVIRONMENT)
    assert result.status == 1
    assert result.errors.rstrip().endswith("ValueError: b\xf6\xf6m \\udc80")


NO_FILES = """
import resource, tempfile
{before}
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
"""
DIRECTORIES = {
    "none can be written to": ("", "No usable temporary directory"),
    "full": ("tempfile.gettempdir()", "File too large"),
    "gone": ("tempfile.tempdir = '/nowhere'", "No such file or directory"),
    "read-only": ("tempfile.tempdir = '/proc'", "No such file or directory"),
}


@pytest.mark.parametrize(
    ("directory", "ending"),
    cases(
        product(DIRECTORIES, ("exception", "late", "stalled")),
        quick=[
            ("none can be written to", "late"),
            ("full", "exception"),
            ("gone", "stalled"),
            ("read-only", "late"),
        ],
    ),
)
def test_a_job_without_temporary_files_ends_as_any_other(directory, ending):
    before, reason = DIRECTORIES[directory]
    limits = {"DISTOPT_DEADLINES": "warn=0.5,silent=1,end=1"} if ending == "stalled" else {}
    script = JOB.format(breaking=NO_FILES.format(before=before), ending=ENDINGS[ending])
    with script_file(script) as path:
        result = run([DISTOPT, "run", "-n", "2", path], env=ENVIRONMENT | limits)
    assert (result.status == 0) == (ending == "late"), result.text
    if ending == "exception":
        assert "ValueError: b\xf6\xf6m" in result.errors
    else:
        assert "Their stacks could not be written ([Errno" in result.errors
        assert reason in result.errors


AT_THE_START = """
import os, resource, sys
number = int(os.environ.get("PMI_RANK") or os.environ["OMPI_COMM_WORLD_RANK"])
if number == 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
sys.stdout.close(), sys.stderr.close()
import distopt
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
distopt.barrier()
os.write(1, b"met\\n")
if number == 1:
    raise ValueError("boom")
distopt.barrier()
"""


def test_what_is_broken_at_the_import_does_not_end_a_replica():
    with script_file(AT_THE_START) as path:
        result = run([DISTOPT, "run", "-n", "2", path], env=ENVIRONMENT)
    assert result.output.count("met") == 2
    assert result.status == 1
    assert result.errors.rstrip().endswith("ValueError: boom")


def test_a_failure_whose_text_can_not_be_shown_ends_the_job():
    script = """
import distopt
class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no text")
distopt.barrier()
if distopt.replica_index() == 1:
    raise Unspeakable
distopt.barrier()
"""
    result = run_replicas(2, script, env=ENVIRONMENT)
    assert result.seconds < SOON
    assert result.status == 1
    assert "Replica 1 failed:" in result.errors
    assert "Unspeakable" in result.errors
