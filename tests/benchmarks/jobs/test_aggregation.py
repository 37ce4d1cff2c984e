"""The sum over 2 and 4 ranks under mpirun, beside MPI_Allreduce on buffers of the same size."""

import json
from pathlib import Path

import pytest
from benchmarks.measure import FULL, show
from support import run_replicas

SIZES = [4096, *(1 << k for k in range(18, 27, 2))] if FULL else [4096, 1 << 18]
SCRIPT = Path(__file__).with_name("aggregation.py")
pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]


@pytest.mark.parametrize("ranks", [2, 4])
def test_sum_against_allreduce(ranks):
    result = run_replicas(ranks, SCRIPT, list(map(str, SIZES)), timeout=500, env={"OMP_NUM_THREADS": "1"})
    assert result.status == 0, result.text
    rows = {int(size): row for size, row in json.loads(result.output).items()}
    shown = {f"{size} B": {k: v * 1e6 for k, v in row.items()} for size, row in rows.items()}
    show(f"sum over {ranks} replicas", "µs", shown)
    assert set(rows) == set(SIZES)
    if FULL:
        for size, row in rows.items():
            if size > 4096:
                assert row["sum"] <= 1.1 * row["MPI Allreduce"], f"{size} B"
        if ranks == 2:
            assert rows[4096]["sum"] + rows[4096]["header"] <= 60e-6
