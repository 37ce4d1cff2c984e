"""A folder that all replicas know."""

from pathlib import Path

import pytest


@pytest.fixture
def directory(request, tmp_path):
    """One directory for all replicas."""
    fixture = next((f for f in ("replicas", "several", "placed") if f in request.fixturenames), None)
    return tmp_path if fixture is None else Path(request.getfixturevalue(fixture)(lambda: str(tmp_path))[0])
