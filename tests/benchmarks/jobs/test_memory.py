"""Memory of a node: how many copies of parameters and Adam's slots all replicas hold together, beside DDP."""

import json
from pathlib import Path

import pytest
from benchmarks.measure import FULL, HAS_TORCH, keep, show
from support import run_replicas

RANKS, COUNT = (8, 1 << 23) if FULL else (3, 1 << 21)
SCRIPT = Path(__file__).with_name("memory.py")
WAYS = ["NumPy replicated", "NumPy shared", *["torch DDP", "torch replicated", "torch shared"] * HAS_TORCH]
# What an allocator keeps for later must not count: large arrays go straight to the system and back.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]


def test_copies_on_a_node():
    rows = {}
    for way in WAYS:
        result = run_replicas(RANKS, SCRIPT, [way, str(COUNT)], timeout=200, env=ENVIRONMENT)
        assert result.status == 0, result.text
        held, array = json.loads(result.output), 4 * COUNT
        rows[way] = {"MB": held / 1e6, "copies": (held - RANKS * array) / (3 * array)}
    title = f"memory of {RANKS} replicas, Adam, {COUNT} float32 parameters; copies of parameters and slots"
    show(title, "MB", rows, "summed over replicas, after three steps")
    keep("memory", rows, ranks=RANKS, parameters=COUNT)
    for way, row in rows.items():
        expected = 1 if way.endswith("shared") else RANKS
        # Beside so few parameters as in a tiny run, what a process needs for itself counts.
        assert 0.9 * expected < row["copies"] < (1.2 * expected if FULL else expected + 0.5), way
