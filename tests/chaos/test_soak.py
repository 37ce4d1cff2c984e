"""Nothing grows without bound: 20,000 steps over lists that change, 2,000 optimizers and 10,000 strategies, under MPI
in both modes; and 1,000 groups of Ray.

``DISTOPT_SOAK`` says which part of that is done (1: all).
"""

import json
import os
from pathlib import Path

import pytest
from chaos.soak import form_groups
from support import run_replicas

PART = float(os.environ.get("DISTOPT_SOAK", "1"))
STEPS, OPTIMIZERS, STRATEGIES, GROUPS = (round(count * PART) for count in (20_000, 2_000, 10_000, 1_000))
SCRIPT = Path(__file__).with_name("soak.py")

MAY_GROW = {"KiB": 6_000, "files": 2, "mappings": 12, "threads": 0, "communicators": 0}
"""How much more there may be at the end than at the first look: allocators keep some of what they get."""

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


def assert_flat(looks):
    grown = {name: looks[-1][name] - looks[0][name] for name in MAY_GROW}
    assert all(grown[name] <= MAY_GROW[name] for name in MAY_GROW), looks


@pytest.mark.parametrize("update", ["replicated", "shared"])
def test_nothing_grows(update):
    result = run_replicas(
        2, SCRIPT, [str(STEPS), str(OPTIMIZERS), str(STRATEGIES)], timeout=1700, env={"DISTOPT_UPDATE": update}
    )
    assert result.status == 0, result.text
    looks = json.loads(result.output)
    for part in ("lists", "dropped", "closed", "forgotten"):
        assert_flat(looks[part])
    assert looks["kept"][0]["files"] <= OPTIMIZERS + 100  # one each: that of its gradients


@pytest.mark.timeout(3600)
def test_groups_of_ray_leave_nothing_behind():
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        form = ray.remote(num_cpus=1)(form_groups)
        for looks in ray.get([form.remote(index, GROUPS) for index in (0, 1)]):
            assert_flat(looks)
    finally:
        ray.shutdown()
