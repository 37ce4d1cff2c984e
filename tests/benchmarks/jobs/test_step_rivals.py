"""Sum of gradients and Adam on the replicas of one node: distopt, MPI, Gloo with PyTorch, a copy loop."""

import json
from pathlib import Path

import pytest
from benchmarks.measure import FULL, HAS_TORCH, keep, misses, show
from support import mpirun, run_replicas

SIZES = [1 << k for k in (12, 16, 18, 20, 22, 24, 26, 28)] if FULL else [4096, 1 << 18]
RANKS = [2, 4, 8] if FULL else [2]
SCRIPT = Path(__file__).with_name("step_rivals.py")
RIVALS = ["MPI + Adam", *["Gloo + torch Adam"] * HAS_TORCH]

TARGETS = {
    ("shared", "Gloo + torch Adam"): {2: 6, 4: 12, 8: 9},
    ("shared", "MPI + Adam"): {2: 3.5, 4: 6, 8: 7.5},
    ("replicated", "Gloo + torch Adam"): {2: 3, 4: 5, 8: 3.5},
    ("replicated", "MPI + Adam"): {2: 1.7, 4: 2.4, 8: 2.5},
}
"""How many times as fast as a rival each mode must be with 16.8 M parameters, by the number of replicas."""

LARGE, MILLION, SMALL = 1 << 26, 1 << 22, 1 << 18
"""Bytes of 16.8 M, 1 M and 65 K float32 parameters."""

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("ranks", RANKS)
def test_sum_and_adam(ranks):
    result = run_replicas(ranks, SCRIPT, list(map(str, SIZES)), timeout=1100, env={"OMP_NUM_THREADS": "1"})
    assert result.status == 0, result.text
    rows = {int(size): row for size, row in json.loads(result.output).items()}
    shown = {f"{size // 4} parameters": {k: v * 1e3 for k, v in row.items()} for size, row in rows.items()}
    show(f"sum and Adam over {ranks} replicas, {mpirun()}", "ms", shown)
    keep(f"step-{mpirun().family}-{ranks}", rows, ranks=ranks, mpi=str(mpirun()))
    assert set(SIZES) - {1 << 28} <= set(rows)  # there may be no room for the largest
    assert all(set(row) >= {*RIVALS, "shared", "replicated", "copy loop"} for row in rows.values())
    if FULL:
        missed = misses(large_targets(rows[LARGE], ranks))
        if ranks == 2:
            missed += misses(whole_step_targets(rows))
        assert not missed, "\n".join(missed)


def large_targets(row, ranks):
    """What must be reached at 16.8 M parameters: times beside a rival's, and their limits."""
    times = {
        f"{mode} beside {rival}": (row[mode] / row[rival], 1 / factors[ranks])
        for (mode, rival), factors in TARGETS.items()
        if rival in row
    }
    return times | {
        "shared beside the copy loop": (row["shared"] / row["copy loop"], 1.25),
        "shared with global_clipnorm beside without": (row["shared, clipped"] / row["shared"], 1.8),
    }


def whole_step_targets(rows):
    """What ``apply_gradients`` may take beside a bare loop of MPI Allreduce and fused Adam."""
    beside = {size: rows[size]["shared"] / rows[size]["MPI + Adam"] for size in (MILLION, SMALL)}
    return {
        "1 M parameters, shared beside a bare MPI loop": (beside[MILLION], 1 / 1.3),
        "65 K parameters, shared beside a bare MPI loop": (beside[SMALL], 1.5),
    }
