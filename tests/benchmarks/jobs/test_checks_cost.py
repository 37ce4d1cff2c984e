"""What the step header and the comparison of the replicas' state cost, in steps of the digits job."""

import json
from pathlib import Path

import pytest
from benchmarks.measure import FULL, show
from support import run_replicas

SCRIPT = Path(__file__).with_name("checks.py")
pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(200)]


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=[] if FULL else pytest.mark.slow)])
def test_checks_are_cheap(ranks):
    result = run_replicas(ranks, SCRIPT, timeout=150, env={"OMP_NUM_THREADS": "1"})
    assert result.status == 0, result.text
    row = json.loads(result.output)
    show(f"a step of the digits job, {ranks} replicas", "µs", {"one step": {k: v * 1e6 for k, v in row.items()}})
    assert len(row) == 3
    if FULL and ranks == 2:
        assert row["their headers"] <= min(30e-6, 0.05 * row["steps, no comparison"])
        assert row["steps, every 50"] <= 1.02 * row["steps, no comparison"]
