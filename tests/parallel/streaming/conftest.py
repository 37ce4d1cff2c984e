"""Several replicas, and buckets of one gradient each."""

import pytest
from parallel.streaming.streamed import BUCKETS
from processes_as_replicas import process_replicas, transport_of

from distopt.testing import SimulatedReplicas


def pytest_generate_tests(metafunc):
    """``few`` are several replicas, where their number matters little."""
    if "few" in metafunc.fixturenames:
        ways = {"mpi": [pytest.param("mpi", marks=pytest.mark.mpi(min_size=2))], "ray": ["ray"], None: [2, 3]}
        metafunc.parametrize("few", ways[transport_of(metafunc.config)], indirect=True)


@pytest.fixture
def few(request):
    return SimulatedReplicas(request.param) if isinstance(request.param, int) else process_replicas(request.param)


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch):
    """Every gradient is a bucket of its own, unless a test says otherwise."""
    monkeypatch.setenv(BUCKETS, "1")
