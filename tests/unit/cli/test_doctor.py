"""``distopt doctor``: what matters on this machine, and what is wrong."""

import math
import os
import sys
from pathlib import Path

import pytest
from support import DISTOPT, mpirun, mpirun_command, run

from distopt.cli import doctor, machine
from distopt.cli.findings import Findings
from distopt.cli.machine import Seat
from distopt.errors import MissingExtraError

NAMES = (
    "distopt", "python", "MPI library", "launcher", "mpirun on PATH", "started as", "cores", "threads",
    "threads per replica", "shared memory", "kernel cache", "numpy", "numba", "mpi4py",
)  # fmt: skip


@pytest.fixture
def findings():
    return Findings()


def lines(result):
    return dict(line.split("  ", 1) for line in result.output.splitlines() if "  " in line)


def test_names_what_matters():
    result = run([DISTOPT, "doctor"])
    assert (result.status, result.errors) == (0, ""), result.text
    assert set(NAMES) <= set(lines(result))
    assert lines(result)["started as"].strip() == "one process"
    assert lines(result)["launcher"].strip() == f"{mpirun()} ({mpirun().path})"
    assert result.output.endswith("\nnothing is wrong\n")


def test_outside_of_a_launcher_it_loads_no_mpi():
    code = (
        "import sys; from distopt.cli.doctor import doctor\n"
        "try: doctor(standalone_mode=False)\n"
        "finally: print('MPI' if 'mpi4py.MPI' in sys.modules else 'no MPI here')"
    )
    result = run([sys.executable, "-c", code])
    assert result.output.endswith("no MPI here\n"), result.text


def test_under_mpirun_replica_0_speaks_for_all():
    result = run([*mpirun_command(2), DISTOPT, "doctor"])
    assert result.status == 0, result.text
    assert result.output.count("started as") == 1
    assert lines(result)["started as"].strip() == f"replica 0 of 2 by {mpirun().family}"
    assert lines(result)["replicas"].strip().startswith("2, 2 on this node")


def test_finds_replicas_bound_to_one_core():
    core = str(min(os.sched_getaffinity(0)))
    if os.cpu_count() == 1:
        pytest.skip("there is only one core to be bound to")
    command = mpirun_command(2)
    result = run([*command[:-1], "taskset", "-c", core, *command[-1:], DISTOPT, "doctor"])
    assert result.status != 0
    assert f"wrong: replicas 0, 1 are all bound to core {core}" in result.output
    assert "--bind-to none" in result.output


def test_finds_an_mpirun_of_another_mpi_on_the_path(tmp_path):
    name = {"mpich": "mpirun (Open MPI) 4.1.4", "openmpi": "HYDRA build details: Version: 5.0.2"}
    other = tmp_path / "mpirun"
    other.write_text(f"#!/bin/sh\necho '{name[mpirun().family]}'\n")
    other.chmod(0o755)
    result = run([DISTOPT, "doctor"], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert result.status == 1
    assert "wrong: plain mpirun is" in result.output
    assert f"use distopt run, or {mpirun().path}" in result.output


def test_finds_a_missing_mpi_library():
    result = run([DISTOPT, "doctor"], env={"MPI4PY_LIBMPI": "/nowhere/libmpi.so"})
    assert result.status == 1
    assert "wrong: mpi4py finds no MPI library" in result.output
    assert "pip install mpich" in result.output


@pytest.mark.parametrize(("has_ray", "status"), [(True, 0), (False, 1)])
def test_who_has_ray_needs_no_mpi(has_ray, status, findings, monkeypatch):
    def missing():
        raise MissingExtraError("mpi4py", "mpi", "starting replicas with MPI")

    monkeypatch.setattr(doctor, "mpi_library", missing)
    monkeypatch.setattr(doctor, "find_spec", lambda name: has_ray or None)
    doctor._launchers(findings)
    assert findings.status == status
    assert ["distopt run --backend ray" in text for _, text in findings.facts] == [True] * has_ray


def test_finds_a_cache_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    result = run([DISTOPT, "doctor"], env={"DISTOPT_CACHE_DIR": str(tmp_path / "file")})
    assert result.status == 1
    assert "wrong: compiled kernels can't be kept" in result.output
    assert "set DISTOPT_CACHE_DIR" in result.output


def test_finds_a_number_of_threads_that_is_none():
    result = run([DISTOPT, "doctor"], env={"DISTOPT_THREADS": "many"})
    assert result.status == 1
    assert "wrong: DISTOPT_THREADS='many'" in result.output


def test_replicas_with_cores_of_their_own_are_fine(findings):
    host = os.uname().nodename
    machine.cores(findings, [Seat(host, (0,)), Seat(host, (1,)), Seat("other", (0,))])
    assert findings.problems == []
    assert dict(findings.facts)["replicas"].startswith("3, 2 on this node")


def test_little_shared_memory_is_a_problem(findings, monkeypatch):
    class Full:
        f_frsize, f_blocks, f_bavail = 4096, 16384, 100

    monkeypatch.setattr(os, "statvfs", lambda path: Full)
    machine.shared_memory(findings)
    assert findings.status == 1
    assert "--shm-size=1g" in findings.problems[0]


def test_the_smallest_quota_above_a_control_group_counts(tmp_path):
    membership = tmp_path / "cgroup"
    membership.write_text("1:cpu:/old\n0::/job/step\n")
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "step" / "cpu.max").write_text("400000 100000\n")
    (tmp_path / "job" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine._cgroup_cores(membership, tmp_path) == 1.5
    assert math.isinf(machine._cgroup_cores(Path("/nowhere"), tmp_path))
