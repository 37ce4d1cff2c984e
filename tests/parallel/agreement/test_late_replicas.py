"""Does lateness change a number? Random programs, in each of whose actions one replica is late at one point.

``DISTOPT_SCHEDULES`` says how many seeds; ``make chaos`` runs thousands of programs.
"""

import os

import pytest
from processes_as_replicas import process_replicas, transport_of
from schedules.comparison import BUCKET_BYTES, check

from distopt.testing import SimulatedReplicas

SEEDS = int(os.environ.get("DISTOPT_SCHEDULES", "6"))

# Programs leave gradients and steps out, which is warned of.
pytestmark = pytest.mark.filterwarnings("ignore")


def pytest_generate_tests(metafunc):
    """``few`` are several replicas; an even seed's update replicated parameters, an odd one's shared."""
    ways = {"mpi": [pytest.param("mpi", marks=pytest.mark.mpi(min_size=2))], "ray": ["ray"], None: [2, 3]}
    metafunc.parametrize("few", ways[transport_of(metafunc.config)], indirect=True)


@pytest.fixture
def few(request):
    return SimulatedReplicas(request.param) if isinstance(request.param, int) else process_replicas(request.param)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_number_depends_on_who_is_late(few, seed, monkeypatch):
    monkeypatch.setenv("DISTOPT_BUCKET_BYTES", BUCKET_BYTES)
    check(seed, few)
