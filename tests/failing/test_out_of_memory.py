"""Out of memory: the kernel's word where it killed a replica, and what is used and allowed where Python gives up."""

import os
import re
from pathlib import Path

import pytest
from support import DISTOPT, run, run_replicas, script_file

from distopt.cli.deaths import cause_of_sigkill, killed
from distopt.cli.records import Records
from distopt.process.system import ControlGroup, control_group, describe_memory

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}
SAID = {
    "mpich": "=   PID {pid} RUNNING AT {host}\n=   EXIT CODE: 9\nKilled (signal 9)",
    "openmpi": "prterun noticed that process rank 2 with PID {pid} on node {host} exited on\nsignal 9 (Killed).",
}


def mounted(root, version, path, kills=0, limits=()):
    """A tree of control groups as the kernel shows it, and the file that says where in it a process is."""
    base = root / "memory" if version == 1 else root
    folders = [base / path.lstrip("/"), *(base / path.lstrip("/")).parents]
    folders = [folder for folder in folders if folder.is_relative_to(base)]
    for folder, limit in zip(folders, [*limits, *[None] * len(folders)], strict=False):
        folder.mkdir(parents=True, exist_ok=True)
        if version == 1:
            (folder / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
            (folder / "memory.limit_in_bytes").write_text(f"{limit or 9223372036854771712}\n")
        else:
            (folder / "memory.events").write_text(f"low 0\nhigh 3\nmax 17\noom 2\noom_kill {kills}\n")
            (folder / "memory.max").write_text(f"{limit or 'max'}\n")
    membership = root / "cgroup"
    lines = f"5:cpu,cpuacct:/other\n4:memory:{path}\n0::/\n" if version == 1 else f"0::{path}\n"
    membership.write_text(lines)
    return root, membership


@pytest.mark.parametrize("version", [1, 2])
def test_kills_and_the_tightest_limit_are_read(tmp_path, version):
    tree = mounted(tmp_path, version, "/slurm/job_7/step_0", kills=3, limits=[None, 2 << 30, 5 << 30])
    assert control_group(*tree) == ControlGroup(limit=2 << 30, kills=3)


@pytest.mark.parametrize("version", [1, 2])
def test_there_may_be_no_limit(tmp_path, version):
    assert control_group(*mounted(tmp_path, version, "/user.slice")) == ControlGroup(limit=None, kills=0)


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_sees_its_own_group_as_the_root(tmp_path, version):
    root, membership = mounted(tmp_path, version, "/", kills=1, limits=[1 << 30])
    membership.write_text(
        membership.read_text().replace("memory:/", "memory:/docker/ab12").replace("0::/", "0::/docker")
    )
    assert control_group(root, membership) == ControlGroup(limit=1 << 30, kills=1)


def test_a_system_without_control_groups(tmp_path):
    assert control_group(tmp_path, tmp_path / "missing") is None
    (tmp_path / "cgroup").write_text("0::/\n")
    assert control_group(tmp_path, tmp_path / "cgroup") is None


def test_this_system_can_be_read():
    group = control_group()
    assert group is None or group.kills >= 0
    assert re.fullmatch(r"this process holds \d+\.\d\d GiB of memory; its limits: .+", describe_memory())


@pytest.mark.parametrize("family", SAID)
@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (
            (4 << 30, 1),
            (4 << 30, 2),
            "ran out of memory: the limit here is 4.00 GiB, and the kernel killed it. Use fewer",
        ),
        ((None, 0), (None, 1), "ran out of memory: the machine's memory was full, and the kernel killed it. Use fewer"),
        ((4 << 30, 1), (4 << 30, 1), "was killed by signal 9 (SIGKILL); if nobody killed it, it may have run out of"),
        (None, None, "was killed by signal 9 (SIGKILL); if nobody killed it, it may have run out of memory"),
    ],
)
def test_the_sentence_says_what_the_kernel_knows(tmp_path, family, before, after, sentence):
    host = os.uname().nodename
    (tmp_path / "replica-2.json").write_text(f'{{"pid": 1234, "host": "{host}"}}')
    groups = (group and ControlGroup(*group) for group in (before, after))
    said, cause = SAID[family].format(pid=1234, host=host), cause_of_sigkill([], *groups)
    (text,) = killed(said, Records(tmp_path), None, cause)
    assert text.startswith(f"distopt run: replica 2 (pid 1234 on {host}) {sentence}")


def test_the_kernel_is_asked_before_and_after_the_job(tmp_path):
    """The real command, with a control group of files in which the kernel's count rises while the job runs."""
    root, membership = mounted(tmp_path, 2, "/job", kills=4, limits=[3 << 30])
    command = (
        "from pathlib import Path\nfrom distopt.cli import job, run\nfrom distopt.process.system import control_group\n"
        f"job.control_group = lambda: control_group(Path({str(root)!r}), Path({str(membership)!r}))\nrun.run()\n"
    )
    script = f"""
import os, signal, distopt
from pathlib import Path
distopt.barrier()
if distopt.replica_index() == 1:
    events = Path({str(root)!r}, "job", "memory.events")
    events.write_text(events.read_text().replace("oom_kill 4", "oom_kill 5"))
    os.kill(os.getpid(), signal.SIGKILL)
distopt.barrier()
"""
    with script_file(command) as program, script_file(script) as path:
        python = str(Path(DISTOPT).with_name("python"))
        result = run([python, program, "-n", "2", path], env=ENVIRONMENT)
    assert result.status != 0
    last = result.errors.rstrip().splitlines()[-1]
    assert re.match(r"distopt run: replica 1 \(pid \d+ on \S+\) ran out of memory: the limit here is 3\.00 GiB", last)


@pytest.mark.parametrize("where", ["main", "thread"])
def test_an_error_of_python_says_what_is_used_and_what_is_allowed(where):
    script = """
import resource, sys, threading
import numpy as np, distopt
distopt.barrier()
def grow():
    held = np.ones((256 << 20) // 8)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
    np.ones(1 << 27)
if distopt.replica_index() == 1:
    if sys.argv[1] == "main": grow()
    threading.Thread(target=grow).start()
distopt.barrier()
distopt.barrier()
"""
    result = run_replicas(2, script, [where], env=ENVIRONMENT)
    assert result.status != 0
    assert "Replica 1 failed" in result.errors
    assert "MemoryError" in result.errors
    held = re.search(
        r"\(this process holds (\d\.\d\d) GiB of memory; its limits: .*of addresses \(ulimit -v\)\)", result.errors
    )
    assert held is not None, result.errors
    assert float(held[1]) > 0.25
