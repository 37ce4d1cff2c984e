"""How a process finds out what started it."""

import json
import os
import subprocess
import sys

import pytest
from support import mpirun_command, run, run_replicas

from distopt.process.launcher import Launch, launched, scrubbed_environment
from distopt.settings import REPLICA_PID

OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "3"}
SLURM_STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_JOB_ID": "7"}
MVAPICH = {"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "1"}
JSRUN = {"JSM_NAMESPACE_SIZE": "2", "JSM_NAMESPACE_RANK": "1"}
FLUX = {"FLUX_JOB_SIZE": "2", "FLUX_TASK_RANK": "1"}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}


@pytest.fixture
def environment(monkeypatch):
    """Sets the variables of a launcher in an otherwise clean environment."""
    clean = scrubbed_environment()
    for name in set(os.environ) - set(clean):
        monkeypatch.delenv(name)
    monkeypatch.setenv(REPLICA_PID.name, "0")  # so that what the calls under test set is taken back

    def set_variables(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        (OPEN_MPI, Launch("openmpi", 4, 2)),
        (MPICH, Launch("mpich", 3, 1)),
        (SLURM_STEP, Launch("slurm", 8, 5)),
        (BATCH_SCRIPT, None),
        (SLURM_STEP | {"SLURM_STEP_ID": "4294967291"}, None),  # the batch script as a step
        (SLURM_STEP | {"SLURM_STEP_ID": "4294967290"}, None),  # the shell of salloc
        (SLURM_STEP | OPEN_MPI, Launch("openmpi", 4, 2)),  # mpirun in an allocation
        (SLURM_STEP | MPICH, Launch("slurm", 3, 1)),  # srun --mpi=pmi2
        (SLURM_STEP | MPICH | {"HYDI_CONTROL_FD": "7"}, Launch("mpich", 3, 1)),
        ({"PMI_RANK": "1"}, None),
        ({"OMPI_COMM_WORLD_RANK": "", "OMPI_COMM_WORLD_SIZE": "two"}, None),
        (MVAPICH, Launch("mvapich", 2, 1)),
        (JSRUN, Launch("jsrun", 2, 1)),
        (JSRUN | OPEN_MPI, Launch("openmpi", 4, 2)),  # of Spectrum MPI
        (FLUX, Launch("flux", 2, 1)),
        (SLURM_STEP | FLUX, Launch("flux", 2, 1)),  # an instance of Flux under Slurm
        ({"PALS_RANKID": "1"}, Launch("pals", None, 1)),
        ({"PALS_RANKID": "1"} | MPICH, Launch("mpich", 3, 1)),
        ({"PMIX_RANK": "0"}, Launch("pmix", None, 0)),
        (SLURM_STEP | {"PMIX_RANK": "5"}, Launch("slurm", 8, 5)),  # srun --mpi=pmix
        (BATCH_SCRIPT | {"PMIX_RANK": "5"}, Launch("pmix", None, 5)),
    ],
)
def test_the_step_variables_say_who_this_is(environment, variables, expected):
    environment(variables)
    assert launched() == expected


def test_a_mark_of_an_unrelated_process_is_not_ours(environment):
    unrelated = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        environment(MPICH | {REPLICA_PID.name: str(unrelated.pid)})
        assert launched() == Launch("mpich", 3, 1)
        assert os.environ[REPLICA_PID.name] == str(os.getpid())
    finally:
        unrelated.communicate()


def test_scrubbed_environment_keeps_settings_and_drops_what_launchers_say():
    settings = {"OMPI_MCA_btl": "self", "OMPI_ALLOW_RUN_AS_ROOT": "1", "PRTE_MCA_x": "1", "MPIR_CVAR_Y": "2"}
    said = OPEN_MPI | MPICH | {"PMIX_RANK": "1", "HYDI_CONTROL_FD": "7", "MPI_LOCALRANKID": "0"}
    said |= (
        MVAPICH
        | JSRUN
        | FLUX
        | {
            "PALS_RANKID": "1",
            "PRTE_LAUNCHED": "1",
            "OMPI_MCA_num_procs": "2",
            REPLICA_PID.name: "12",
            "SLURM_STEP_ID": "0",
        }
    )
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "FLUX_URI": "local:///", "PATH": "/bin"}
    assert scrubbed_environment(settings | said | job) == settings | job


FAMILY = """
import json, multiprocessing, os, subprocess, sys
from distopt.process.launcher import launched, scrubbed_environment

def index():
    step = launched()
    return None if step is None else [step.rank, step.size]

if __name__ == "__main__":
    me = index()
    if "child" in sys.argv:
        print(json.dumps(me))
        sys.exit()
    again = [sys.executable, __file__, "child"]
    nested = [*json.loads(sys.argv[1]), __file__, "child"]
    ask = lambda command, env=None: [json.loads(line) for line in subprocess.run(
        command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()]
    answer = {"me": me, "subprocess": ask(again), "shell": ask(["sh", "-c", '"$@"; true', "sh", *again])}
    for method in "fork", "spawn":
        with multiprocessing.get_context(method).Pool(1) as pool:
            answer[method] = pool.apply(index)
    answer["nested"] = sorted(ask(nested, scrubbed_environment()))
    sys.stdout.write("answer " + json.dumps(answer) + "\\n")
"""


def test_what_a_replica_starts_is_no_replica_but_a_job_of_its_own_is():
    result = run_replicas(2, FAMILY, [json.dumps(mpirun_command(2))])
    assert result.status == 0, result.text
    answers = [json.loads(line.removeprefix("answer ")) for line in result.output.splitlines()]
    assert sorted(answer.pop("me") for answer in answers) == [[0, 2], [1, 2]]
    child = {"subprocess": [None], "shell": [None], "fork": None, "spawn": None, "nested": [[0, 2], [1, 2]]}
    assert answers == [child, child]


def test_the_launcher_is_read_without_mpi():
    code = (
        "import sys; from distopt.process.launcher import launched; launched();"
        "print(sorted(set(sys.modules) & {'autograd', 'click', 'mpi4py', 'msgspec', 'numba', 'numpy', 'rich'}))"
    )
    result = run([sys.executable, "-c", code])
    assert (result.status, result.output) == (0, "[]\n"), result.text
