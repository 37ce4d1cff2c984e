"""What the tests of several modules do on simulated replicas."""

import pytest

from distopt import simulate
from distopt.errors import InvalidArgumentError


def raised_everywhere(replicas, body):
    """The error of each replica, after checking that there is one on all."""

    def run():
        with pytest.raises(InvalidArgumentError) as caught:
            body()
        return str(caught.value)

    return simulate(replicas, run)
