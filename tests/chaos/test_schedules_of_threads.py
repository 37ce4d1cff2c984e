"""Thousands of random programs, one replica late in each action, on threads and on the transport of Ray's replicas.

``DISTOPT_SCHEDULES`` says how many seeds each transport gets for 2, 3 and 4 replicas. MPI's are those of
``parallel/test_late_replicas.py`` under mpirun.
"""

import os

import pytest
from connected import ConnectedReplicas
from schedules.comparison import BUCKET_BYTES, check

from distopt.testing import SimulatedReplicas

TRANSPORTS = {"threads": SimulatedReplicas, "sockets": lambda count: ConnectedReplicas((0,) * count)}
SEEDS = int(os.environ.get("DISTOPT_SCHEDULES", "10"))

pytestmark = [pytest.mark.chaos, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_number_depends_on_who_is_late(transport, count, seed, monkeypatch):
    monkeypatch.setenv("DISTOPT_BUCKET_BYTES", BUCKET_BYTES)
    check(seed, TRANSPORTS[transport](count))
