"""How long a program waits: the import, and mpirun to the first finished Adam step, cached and cold."""

import statistics
import sys

import pytest
from benchmarks.measure import FULL, show
from support import run, run_replicas

FIRST_STEP = """
import numpy as np, distopt
v = distopt.Variable(np.zeros(1000, "float32"))
distopt.optimizers.Adam().apply_gradients([(np.ones(1000, "float32"), v)])
"""
pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(120)]


def test_import():
    script = "import time; s = time.perf_counter(); import distopt; print(time.perf_counter() - s)"
    times = [float(run([sys.executable, "-c", script]).output) for _ in range(5 if FULL else 1)]
    show("import distopt", "s", {"import": {"distopt": statistics.median(times)}})
    assert statistics.median(times) < 0.2


def test_nothing_is_loaded_by_the_import():
    heavy = ("mpi4py", "ray", "numba", "autograd", "torch", "msgspec", "numpy")
    script = f"import sys, distopt; print([m for m in {heavy} if m in sys.modules])"
    assert run([sys.executable, "-c", script]).output.strip() == "[]"


def test_first_step(tmp_path):
    cache = {"DISTOPT_CACHE_DIR": str(tmp_path)}
    cold = run_replicas(4, FIRST_STEP, env=cache, timeout=100)
    warm = [run_replicas(4, FIRST_STEP, env=cache) for _ in range(5 if FULL else 1)]
    seconds = {"cold": cold.seconds, "cached": statistics.median(r.seconds for r in warm)}
    show("mpirun -n 4 to the end of the first Adam step", "s", {"first step": seconds})
    assert cold.status == 0, cold.text
    assert all(r.status == 0 for r in warm)
    assert "compiling" in cold.errors
    if FULL:
        assert seconds["cold"] < 20
        assert seconds["cached"] < 3
