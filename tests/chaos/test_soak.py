"""Nothing grows without bound: 20,000 steps over lists that change, and 2,000 optimizers, under MPI in both modes.

``DISTOPT_SOAK`` says which part of that is done (1: all).
"""

import json
import os
from pathlib import Path

import pytest
from support import run_replicas

PART = float(os.environ.get("DISTOPT_SOAK", "1"))
STEPS, OPTIMIZERS = round(20_000 * PART), round(2_000 * PART)
SCRIPT = Path(__file__).with_name("soak.py")

MAY_GROW = {"KiB": 6_000, "files": 2, "mappings": 12, "threads": 0, "communicators": 0}
"""How much more there may be at the end than at the first look: allocators keep some of what they get."""

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


@pytest.mark.parametrize("update", ["replicated", "shared"])
def test_nothing_grows(update):
    result = run_replicas(2, SCRIPT, [str(STEPS), str(OPTIMIZERS)], timeout=800, env={"DISTOPT_UPDATE": update})
    assert result.status == 0, result.text
    looks = json.loads(result.output)
    for part in ("lists", "dropped"):
        first, last = looks[part][0], looks[part][-1]
        grown = {name: last[name] - first[name] for name in MAY_GROW}
        assert all(grown[name] <= MAY_GROW[name] for name in MAY_GROW), f"{part}: {looks[part]}"
    assert looks["kept"][0]["files"] <= OPTIMIZERS + 100  # one each: that of its gradients
