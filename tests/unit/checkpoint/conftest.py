"""Tests of checkpoints begin as new processes do."""

import pytest

from distopt.process.replica import Replica, current_replica, enter_replica


@pytest.fixture(autouse=True)
def own_names():
    """Each test is a replica of its own, as in a new process."""
    before = current_replica()
    enter_replica(Replica())
    yield
    enter_replica(before)
