"""The figures are drawn from tables as ``measure.keep`` stores them."""

import json

import pytest
from benchmarks.measure import machine

pytest.importorskip("matplotlib")

from benchmarks.plot import draw

pytestmark = pytest.mark.benchmark


def store(folder, name, rows, **about):
    (folder / f"{name}.json").write_text(json.dumps({"machine": machine(), **about, "rows": rows}))


def test_figures(tmp_path):
    for ranks in (2, 4, 8):
        row = {"MPI + Adam": 1e-3 * ranks, "shared": 5e-4, "copy loop": 4e-4}
        store(tmp_path, f"step-mpich-{ranks}", {"4096": row, "262144": row}, ranks=ranks, mpi="MPICH 5.0.2")
    models = {"MLP": {"local step": 1e-3, "DDP": 2e-3, "one process": 3e-3}, "other": {"local step": 1, "DDP": 2}}
    store(tmp_path, "training-2", models, ranks=2)
    drawn = draw(tmp_path, tmp_path / "docs")
    assert [path.name for path in drawn] == ["step-mpich.png", "training.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000 for path in drawn)


def test_nothing_was_kept(tmp_path):
    assert draw(tmp_path, tmp_path / "docs") == []
