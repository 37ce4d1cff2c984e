"""How much Python one step of Adam is, on two replicas: no more than ``step_profile.py`` allows."""

import pytest
from step_profile import MADE_BY, excess, profile_step

import distopt


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", MADE_BY)
def test_a_step_is_short(name):
    if distopt.num_replicas() != 2:
        pytest.skip("the limits are those of two replicas")
    # On a busy machine it may be that in none of the steps a replica had nobody to wait for.
    last = {}
    assert any(not (last := excess(name, profile_step(*MADE_BY[name]))) for _ in range(10)), last
