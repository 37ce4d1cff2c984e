"""Adam of each family."""

import pytest

from distopt import optimizers
from distopt.optimizers import legacy

FAMILIES = {"keras3": optimizers.Adam, "legacy": legacy.Adam}


@pytest.fixture(params=list(FAMILIES))
def adam(request):
    return FAMILIES[request.param]
