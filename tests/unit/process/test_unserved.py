"""Launchers that say more than one process, where this process finds no other."""

import os
import sys
from pathlib import Path

import pytest
from support import run

SCRIPT = "import distopt; print(distopt.get_strategy().num_replicas_in_sync)"
TORCHRUN = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
ELASTIC = TORCHRUN | {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0", "LOCAL_WORLD_SIZE": "2"}
STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "7"}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}


def start(variables, *flags):
    return run([sys.executable, *flags, "-c", SCRIPT], env=variables)


def test_torchrun_is_an_error_with_the_cure():
    result = start(ELASTIC)
    assert result.status == 1
    assert "LauncherMismatchError: torchrun started this process as one of 2" in result.errors
    assert "distopt run -n 2 script.py" in result.errors


@pytest.mark.parametrize(
    ("variables", "launcher"),
    [
        ({"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "0"}, "mvapich"),
        ({"JSM_NAMESPACE_SIZE": "2", "JSM_NAMESPACE_RANK": "0"}, "jsrun"),
        ({"FLUX_JOB_SIZE": "2", "FLUX_TASK_RANK": "0"}, "flux"),
        ({"PALS_RANKID": "1"}, "pals"),
        (STEP, "slurm"),
    ],
)
def test_a_launcher_whose_processes_mpi_does_not_see_is_an_error(variables, launcher):
    result = start(variables)
    assert result.status != 0
    least = "at least 2" if launcher == "pals" else "2"
    assert f"LauncherMismatchError: the launcher ({launcher}) started {least} processes" in result.errors
    assert "'distopt run' finds it" in result.errors
    assert ("srun --mpi" in result.errors) == (launcher == "slurm")


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        (TORCHRUN, "a launcher has set WORLD_SIZE=2, RANK and LOCAL_RANK"),
        (BATCH, "a Slurm allocation for 8 tasks"),
        (BATCH | {"SLURM_STEP_ID": "4294967291"}, "a Slurm allocation for 8 tasks"),
        ({"PALS_RANKID": "0"}, "a launcher (pals) started this process, perhaps with others"),
    ],
)
def test_what_may_be_meant_is_a_warning(variables, text):
    result = start(variables)
    assert (result.status, result.output) == (0, "1\n"), result.text
    assert result.errors.count("UserWarning") == 1
    assert text in result.errors
    assert "distopt run" in result.errors


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none"},
        {"WORLD_SIZE": "8"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"},
        {"FLUX_JOB_SIZE": "1", "FLUX_TASK_RANK": "0"},
        STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"},
    ],
)
def test_one_process_is_one_replica(variables):
    result = start(variables, "-W", "error")
    assert (result.status, result.output, result.errors) == (0, "1\n", "")


def test_simulated_replicas_and_a_strategy_of_ones_own_need_no_launcher():
    code = "import distopt; print(distopt.simulate(2, distopt.num_replicas))"
    result = run([sys.executable, "-c", code], env=ELASTIC)
    assert (result.status, result.output) == (0, "[2, 2]\n"), result.text


def test_a_launcher_of_pmix_alone_starts_replicas(tmp_path):
    prterun = Path(sys.executable).with_name("prterun")
    if not prterun.exists():
        pytest.skip("Open MPI has it: this environment has another MPI")
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    command = [prterun, *as_root, "--map-by", ":oversubscribe", "-n", "2", sys.executable, "-c", SCRIPT]
    result = run(command)
    assert (result.status, result.output) == (0, "2\n2\n"), result.text
