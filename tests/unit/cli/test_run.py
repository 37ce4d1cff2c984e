"""``distopt run``: starts, passes on, supervises, and says what failed first."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import DISTOPT, ROOT, TESTS, alive, mpirun, run, script_file, started

from distopt.cli.mpirun import Program, describe_launcher, find_mpirun, flags, mpi_library
from distopt.errors import DistoptError

HELLO = """
import sys
from mpi4py import MPI
sys.stdout.write(f"replica {MPI.COMM_WORLD.rank} of {MPI.COMM_WORLD.size} {sys.argv[1:]} {sys.executable}\\n")
sys.stderr.write(f"error stream of {MPI.COMM_WORLD.rank}\\n")
"""

LOOP = """
import os, signal, sys, time
from distopt.process.launcher import launched
from mpi4py import MPI
launched()
if "polite" in sys.argv:
    signal.signal(signal.SIGUSR1, lambda *_: (os.write(1, b"got SIGUSR1\\n"), os._exit(0)))
if "deaf" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
MPI.COMM_WORLD.barrier()
sys.stdout.write(f"ready {MPI.COMM_WORLD.rank} {os.getpid()}\\n")
sys.stdout.flush()
while True:
    time.sleep(0.05)
"""


def distopt_run(replicas, script, *arguments, **options):
    with script_file(script) as path:
        return run([DISTOPT, "run", "-n", str(replicas), path, *arguments], **options)


@pytest.mark.parametrize("count", [1, 3])
def test_runs_the_script_with_its_arguments_and_this_interpreter(count):
    arguments = [
        "-n",
        "7",
        "--config",
        "x",
        "--",
        "-h",
        ":",
        "no-such-program",
        "",
        "'\"$HOME",
    ]  # launchers read colons
    result = distopt_run(count, HELLO, *arguments)
    assert result.status == 0, result.text
    expected = [f"replica {rank} of {count} {arguments} {sys.executable}" for rank in range(count)]
    assert sorted(result.output.splitlines()) == expected
    assert sorted(result.errors.splitlines()) == [f"error stream of {rank}" for rank in range(count)]


def test_options_end_at_a_double_dash():
    with script_file(HELLO) as path:
        result = run([DISTOPT, "run", "-n", "1", "--", path, "--x"])
    assert "['--x']" in result.output, result.text


def test_a_module_and_lines_that_are_headed_by_their_replica(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(
        HELLO
        + "sys.stdout.write('unfinished '); sys.stdout.flush(); sys.stdout.write('to the end'); sys.stdout.flush()"
    )
    command = [sys.executable, "-m", "distopt", "run", "-np", "2", "--prefix", "-m", "package", ":", "--x"]
    result = run(command, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:{TESTS / 'line_buffered'}"})
    assert result.status == 0, result.text
    lines = [(f"[{r}] replica {r} of 2 [':', '--x'] {sys.executable}", f"[{r}] unfinished to the end") for r in (0, 1)]
    assert sorted(result.output.splitlines()) == sorted(sum(lines, ()))
    assert sorted(result.errors.splitlines()) == [f"[{rank}] error stream of {rank}" for rank in range(2)]


def test_output_is_passed_on_byte_by_byte():
    data = bytes(range(256)) * 3000
    script = f"import sys; sys.stdout.buffer.write(bytes(range(256)) * {len(data) // 256})"
    with script_file(script) as path:
        answer = subprocess.run(
            [DISTOPT, "run", "-n", "1", path], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
    received = answer.stdout
    if mpirun().family == "openmpi":  # its replicas write to a terminal, which ends lines in its own way
        received = received.replace(b"\r\n", b"\n")
    assert received == data


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-n", "2", "missing.py"], "there is no script 'missing.py' to run"),
        (["-n", "0", "missing.py"], "0 is not in the range x>=1"),
        (["missing.py"], "Missing option '-n'"),
    ],
)
def test_wrong_calls_end_with_one_sentence(arguments, sentence):
    result = run([DISTOPT, "run", *arguments])
    assert result.status != 0
    assert sentence in result.errors
    assert "Traceback" not in result.errors


def test_the_status_is_that_of_the_job():
    result = distopt_run(2, "import os; from mpi4py import MPI; MPI.COMM_WORLD.rank == 1 and os._exit(5)")
    assert result.status == 5
    last = result.errors.rstrip().splitlines()[-1]
    assert re.fullmatch(r"distopt run: the job ended with status 5; replica 1 \(pid \d+ on .+\) ended first", last)


def test_the_first_to_end_is_named():
    script = LOOP + "    if MPI.COMM_WORLD.rank == 1: os._exit(5)\n"
    result = distopt_run(3, script)
    pid = dict(re.findall(r"ready (\d+) (\d+)", result.output))["1"]
    assert result.status != 0
    # MPICH may report its own kill of the others, with the status of that.
    assert f"replica 1 (pid {pid} on {os.uname().nodename})" in result.errors.rstrip().splitlines()[-1]


def test_the_first_failure_is_printed_last():
    script = """
import os, time
from pathlib import Path
from mpi4py import MPI
comm = MPI.COMM_WORLD
folder = Path(os.environ["DISTOPT_RUN_DIR"])
for index in (2, 0):
    comm.barrier()
    if comm.rank == index:
        (folder / f"failure-{index}.txt").write_text(f"Replica {index} failed:\\nError: number {index}\\n")
        time.sleep(0.05)
comm.barrier()
if comm.rank == 0:
    comm.Abort(3)
comm.barrier()
"""
    result = distopt_run(3, script)
    assert result.status == 3
    assert result.errors.rstrip().endswith("\nReplica 2 failed:\nError: number 2")


def test_a_failure_makes_the_status_nonzero_even_if_mpirun_says_zero():
    script = """
import os
from pathlib import Path
Path(os.environ["DISTOPT_RUN_DIR"], "failure-0.txt").write_text("Replica 0 failed: left early")
"""
    result = distopt_run(1, script)
    assert result.status == 1
    assert result.errors.rstrip().endswith("Replica 0 failed: left early")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_replica_is_named(number):
    with script_file(LOOP) as path, started([DISTOPT, "run", "-n", "3", path]) as job:
        job.wait_for("ready", times=3)
        pid = _pids(job)[1]
        os.kill(pid, number)
        result = job.wait()
    assert result.status != 0
    last = result.errors.rstrip().splitlines()[-1]
    killed = f"distopt run: replica 1 (pid {pid} on {os.uname().nodename}) was killed by signal {number:d}"
    assert last.startswith(f"{killed} ({number.name})")
    assert ("out of memory" in last) == (number == signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopping_it_leaves_no_replica_behind(number):
    with script_file(LOOP) as path, started([DISTOPT, "run", "-n", "3", path]) as job:
        job.wait_for("ready", times=3)
        pids = _pids(job)
        job.process.send_signal(number)
        result = job.wait()
    assert result.status != 0
    assert result.errors.rstrip().endswith(f"distopt run: stopped by {number.name}")
    assert not [pid for pid in pids if alive(pid)]
    assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob(f"distopt-run-*/replica-*{pids[0]}*"))


def test_a_second_ctrl_c_ends_replicas_that_ignore_the_first():
    with script_file(LOOP) as path, started([DISTOPT, "run", "-n", "2", path, "deaf"]) as job:
        job.wait_for("ready", times=2)
        pids = _pids(job)
        job.process.send_signal(signal.SIGINT)
        if mpirun().family == "mpich":  # Open MPI ends such replicas at once
            job.wait_for("another Ctrl-C kills them")
            job.process.send_signal(signal.SIGINT)
        result = job.wait()
    assert result.status != 0
    assert not [pid for pid in pids if alive(pid)]


def test_sigusr1_reaches_the_replicas():
    with script_file(LOOP) as path, started([DISTOPT, "run", "-n", "2", path, "polite"]) as job:
        job.wait_for("ready", times=2)
        job.process.send_signal(signal.SIGUSR1)
        job.wait_for("got SIGUSR1")
        job.wait()


def test_finds_the_launcher_of_the_library_that_mpi4py_loads():
    library = mpi_library()
    launcher = find_mpirun(library)
    assert (launcher.family, launcher.version) == (library.family, library.version)
    assert describe_launcher(launcher.path) == launcher


def test_the_launchers_of_another_mpi_are_refused(tmp_path, monkeypatch):
    other = tmp_path / "bin" / "mpirun"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho 'mpirun (Open MPI) 4.1.4'\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    mpich, openmpi = (Program(tmp_path / "lib" / "libmpi.so", name, "9.9") for name in ("mpich", "openmpi"))
    assert find_mpirun(openmpi) == Program(other, "openmpi", "4.1.4")
    with pytest.raises(DistoptError, match=r"MPICH 9\.9 .*found only Open MPI 4\.1\.4 .*pip install mpich"):
        find_mpirun(mpich)
    other.unlink()
    with pytest.raises(DistoptError, match="found none"):
        find_mpirun(mpich)


def test_without_mpi_the_cure_is_named():
    result = run([DISTOPT, "run", "-n", "2", ROOT / "examples/train.py"], env={"MPI4PY_LIBMPI": "/nowhere/libmpi.so"})
    assert result.status != 0
    assert re.search(r"mpi4py finds no MPI library: .*pip install mpich.*module", result.errors.replace("\n", " "))
    assert "Traceback" not in result.errors


def test_flags(monkeypatch):
    for name in (
        "SLURM_JOB_ID",
        "PBS_NODEFILE",
        "LSB_HOSTS",
        "PE_HOSTFILE",
        "DISTOPT_THREADS",
        "OMP_NUM_THREADS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert flags("mpich", 8) == []
    assert flags("openmpi", 2) == ["--oversubscribe"]
    assert flags("openmpi", 3) == ["--oversubscribe", "--bind-to", "none"]
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert flags("openmpi", 1) == ["--oversubscribe", "--bind-to", "none"]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert flags("openmpi", 1) == ["--allow-run-as-root", "--bind-to", "none"]


def test_more_replicas_than_open_files_leave_nothing(tmp_path):
    with script_file("print('x')") as path:
        command = [sys.executable, "-c", "from distopt.cli.main import main; main()", "run", "-n", "100000", path]
        result = run(["bash", "-c", 'ulimit -n 256; exec "$@"', "bash", *command], env={"TMPDIR": str(tmp_path)})
    assert result.status != 0
    assert "100000 replicas can't be watched from here" in result.text
    assert "Traceback" not in result.text
    assert not [each for each in tmp_path.iterdir() if each.name.startswith("distopt-run-")]


def test_run_into_a_full_device_says_so():
    with script_file("print('x' * 1000, flush=True)") as path, open("/dev/full", "wb") as full:
        command = [sys.executable, "-c", "from distopt.cli.main import main; main()", "run", "-n", "2", path]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert result.returncode != 0
    assert "the output of the job could not be written: No space left on device" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("script", ["launch/mpirun_local.sh", "launch/slurm_mpi.sbatch", ".ci/run"])
def test_launch_scripts_are_valid_shell(script):
    assert run(["bash", "-n", ROOT / script]).status == 0


def test_mpirun_local_runs_a_script():
    with script_file(HELLO) as path:
        environment = {"PATH": f"{mpirun().path.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
        result = run([ROOT / "launch/mpirun_local.sh", "3", path, "--x"], env=environment)
    assert result.status == 0, result.text
    assert sum("of 3 ['--x']" in line for line in result.output.splitlines()) == 3


def test_the_host_file_is_one_that_mpirun_reads(tmp_path):
    family = mpirun().family
    text = (ROOT / "launch" / f"hostfile.{family}").read_text()
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "".join(line for line in text.splitlines(True) if "node2" not in line).replace("node1", "localhost")
    )
    option = {"mpich": "-f", "openmpi": "--hostfile"}[family]
    command = [mpirun().path, *flags(family, 8), option, hosts, "-n", "3", "echo", "here"]
    result = run(command)
    assert (result.status, result.output.split()) == (0, ["here"] * 3), result.text


def _pids(job):
    ready = re.findall(r"ready (\d+) (\d+)", job.output)
    return [int(pid) for _, pid in sorted(ready)]
