"""The same bits by messages, in the node's memory, in shared mode, streamed, and on any placement of the replicas."""

import gc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parallel.random_steps import Run, Step, WithoutNode, placements, runs, train

import distopt
from distopt import Strategy
from distopt.testing import SimulatedReplicas

pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")

MODES = ["replicated", "shared"]


def agreed(outcomes):
    """What all replicas have, which kept their memory where it was."""
    assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
    digests, kept = outcomes[0]
    assert all(kept)
    return digests


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(run=runs(), nodes=placements(), streamed=st.booleans(), bucket=st.sampled_from([1, 5000, 10**9]))
def test_all_paths_give_the_same_bits(monkeypatch, run, nodes, streamed, bucket):
    monkeypatch.setenv("DISTOPT_BUCKET_BYTES", str(bucket))
    expected = agreed(SimulatedReplicas(len(nodes))(train, run, WithoutNode, "replicated", False))
    for where in {None, nodes}:
        for update in MODES:
            outcomes = SimulatedReplicas(len(nodes), where)(train, run, Strategy, update, streamed)
            assert agreed(outcomes) == expected, (where, update)
    gc.collect()  # slabs, and with them communication threads


MIXED = tuple(
    Step(entries, patterns, items)
    for entries, patterns, items in [
        ((0, 1, 2, 3, 4), ("dense", "dense", "sparse", "dense", "mixed"), True),
        ((3, 1), ("mixed", "dense"), False),
        ((0, 1, 2, 3, 4), ("dense", "absent", "mixed", "mixed", "dense"), True),
    ]
)
VARIABLES = (((7,), "float64"), ((), "float16"), ((40, 3), "float32"), ((53, 47), "bfloat16"), ((300, 211), "float32"))


OPTIONS = {
    "momentum": {"clipvalue": 0.7},
    "decay and average": {"global_clipnorm": 2.0},
    "legacy momentum": {},
    "legacy Adam": {"clipnorm": 2.0},
}


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@pytest.mark.parametrize("name", OPTIONS)
def test_placement_and_mode_change_no_bit(placed, name):
    run = Run(name, OPTIONS[name], VARIABLES, MIXED, seed=0)
    digests = agreed(placed(train, run, WithoutNode, "replicated", False))
    for update in MODES:
        assert digests == agreed(placed(train, run, Strategy, update, False)), update
    if distopt.replica_index() == 0 and placed.transport != "threads":
        assert digests == agreed(distopt.simulate(placed.count, train, run, Strategy, "shared", False))


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
def test_one_node_gives_the_bits_of_messages(replicas):
    run = Run("Adam", {"clipnorm": 2.0}, VARIABLES, MIXED, seed=1)
    digests = agreed(replicas(train, run, WithoutNode, "replicated", False))
    for update in MODES:
        assert digests == agreed(replicas(train, run, Strategy, update, False)), update
