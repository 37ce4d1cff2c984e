"""The sum in 2 and 4 Ray actors on one node, beside ray.util.collective's."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from benchmarks.measure import FULL, HAS_TORCH, keep, misses, show
from support import run

SIZES = [4096, *(1 << k for k in range(14, 27, 2))] if FULL else [4096, 1 << 18]
SCRIPT = Path(__file__).with_name("ray_aggregation.py")
OURS, THEIRS = "distopt", "ray.util.collective, Gloo"

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not (HAS_TORCH and importlib.util.find_spec("ray")), reason="make test-frameworks has both"),
]


@pytest.mark.parametrize("count", [2, 4] if FULL else [2])
def test_sum_in_ray_actors(count):
    result = run([sys.executable, SCRIPT, str(count), *map(str, SIZES)], timeout=300)
    assert result.status == 0, result.text
    rows = {f"{int(size)} B": row for size, row in json.loads(result.output.splitlines()[-1]).items()}
    show(f"sum over {count} Ray actors", "ms", {k: {n: v * 1e3 for n, v in row.items()} for k, row in rows.items()})
    keep(f"ray-aggregation-{count}", rows, replicas=count)
    assert len(rows) == len(SIZES)
    if FULL:
        limits = {size: 0.5 if size == f"{1 << 26} B" else 1 for size in rows}
        missed = misses({size: (row[OURS] / row[THEIRS], limits[size]) for size, row in rows.items()})
        assert not missed, "\n".join(missed)
