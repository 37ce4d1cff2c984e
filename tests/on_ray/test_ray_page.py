"""The page on Ray: its trainer trains, and keeps a checkpoint."""

import pytest
from pages import DOCS, run


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_python_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(DOCS / "ray.md")["result"]
    assert result.error is None
    assert result.checkpoint is not None
    assert result.metrics["distance"] < 1
