"""Arrays above 2^31 bytes: the counts of MPI are 32-bit numbers."""

import re
from pathlib import Path

import numpy as np
import pytest

import distopt
from distopt.distribute.agreement.summation import sum_in_place

BYTES = (1 << 31) + (1 << 20) + 4


def _available_gigabytes():
    return int(re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) / (1 << 20)


@pytest.fixture
def _two_replicas_with_room(replicas):
    if replicas.transport != "mpi" or replicas.count != 2:
        pytest.skip("for two replicas under MPI")
    if min(replicas(_available_gigabytes)) < 12:
        pytest.skip("needs 12 GB of free memory")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.mpi
@pytest.mark.usefixtures("_two_replicas_with_room")
class TestBigArrays:
    def test_sum(self, replicas):
        def add():
            flat = np.ones(BYTES // 4, np.float32)
            flat[-1] = distopt.replica_index() + 5
            sum_in_place(distopt.get_strategy().ready(), flat)
            return flat.min().item(), flat[:-1].max().item(), flat[-1].item()

        assert replicas(add) == [(2.0, 2.0, 11.0)] * 2

    def test_broadcast(self, replicas):
        def send():
            mine = np.full(BYTES, 1 + distopt.replica_index(), np.uint8)
            mine[-1] = 200 + distopt.replica_index()
            received = distopt.broadcast(mine, source=1)
            return received.size, received[:-1].min().item(), received[:-1].max().item(), received[-1].item()

        assert replicas(send) == [(BYTES, 2, 2, 201)] * 2
