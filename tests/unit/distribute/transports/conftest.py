"""What several tests of connections begin with."""

import pytest
from connected import make_peers


@pytest.fixture
def two():
    """Two replicas on two nodes that have not connected."""
    ends = make_peers((0, 1))
    yield ends
    for each in ends:
        each.close()
