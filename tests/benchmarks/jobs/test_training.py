"""Whole training steps in PyTorch: distopt and DDP beside the local step, and one process with all cores."""

import json
import os
import sys
from pathlib import Path

import pytest
from benchmarks.measure import FULL, HAS_TORCH, keep, misses, show
from support import run, run_replicas

RANKS = [2, 4] if FULL else [2]
SCRIPT = Path(__file__).with_name("training.py")

LIMITS = {
    "MLP 784-1024-1024-10": {"distopt shared": 1.1, "distopt replicated": 1.25},
    "MLP 64-256-256-10": {"distopt shared": 1.5, "distopt replicated": 2},
}
"""The most that a step may take, in local steps."""

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch: make test-frameworks"),
]


@pytest.mark.parametrize("ranks", RANKS)
def test_training_steps(ranks):
    result = run_replicas(ranks, SCRIPT, timeout=400, env={"OMP_NUM_THREADS": "1"})
    assert result.status == 0, result.text
    rows = json.loads(result.output)
    cores = len(os.sched_getaffinity(0))
    alone = run([sys.executable, SCRIPT, str(ranks)], timeout=400, env={"OMP_NUM_THREADS": str(cores)})
    assert alone.status == 0, alone.text
    for name, row in json.loads(alone.output).items():
        rows[name] |= row
    beside = {name: {k: v / row["local step"] for k, v in row.items()} for name, row in rows.items()}
    show(f"training steps of {ranks} replicas", "ms", in_milliseconds(rows))
    show(f"training steps of {ranks} replicas", "local steps", beside)
    keep(f"training-{ranks}", rows, ranks=ranks)
    assert all(set(row) >= {"local step", "DDP", "one process"} for row in rows.values())
    if FULL:
        missed = misses({f"{n}, {k}": (beside[n][k], limit) for n, row in LIMITS.items() for k, limit in row.items()})
        assert not missed, "\n".join(missed)


def in_milliseconds(rows):
    return {name: {k: v * 1e3 for k, v in row.items()} for name, row in rows.items()}
