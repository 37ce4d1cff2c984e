"""GB/s of the sum of 2 to 64 slabs by one thread, beside a plain copy of one."""

import numpy as np
import pytest
from benchmarks.measure import FULL, keep, medians, misses, show

from distopt.kernels import add_tree
from distopt.memory.layout import aligned_zeros

SIZE = 1 << 22 if FULL else 1 << 14
SLABS = [2, 4, 8, 16, 64]
pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(300)]


def test_bandwidth_of_sums():
    rows = [aligned_zeros(SIZE, np.dtype(np.float32)) for _ in range(max(SLABS))]
    for k, row in enumerate(rows):
        row[:] = k
    out = aligned_zeros(SIZE, np.dtype(np.float32))
    rivals = {"copy": lambda: np.copyto(out, rows[0])}
    rivals |= {f"{count} slabs": lambda count=count: add_tree(rows[:count], out) for count in SLABS}
    seconds = medians(rivals, 9 if FULL else 2)
    assert out[0] == sum(range(SLABS[-1]))
    arrays = {"copy": 2} | {f"{count} slabs": count + 1 for count in SLABS}
    speed = {name: arrays[name] * out.nbytes / seconds[name] / 1e9 for name in rivals}
    show(f"reading and writing, slabs of {out.nbytes >> 10} KB, 1 thread", "GB/s", {"sum": speed})
    keep("sum_kernel", {"sum": speed})
    if FULL:
        missed = misses({"GB/s of 8 slabs over those of 64": (speed["8 slabs"] / speed["64 slabs"], 3)})
        assert not missed, missed
