"""What may differ between replicas is left alone, and no right run is suspected."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parallel.agreement.checked import FAMILIES, assert_found, checked, digest, index, steps, variables
from parallel.caught import caught
from parallel.random_steps import placements, runs, train

import distopt
from distopt import Checks, IndexedSlices, Strategy, Variable
from distopt.aggregators import Stacked
from distopt.constraints import MaxNorm, NonNeg
from distopt.optimizers import SGD, Adam, legacy
from distopt.testing import SimulatedReplicas


@pytest.mark.parametrize("alone", ["all", "one"])
def test_what_a_replica_does_alone_may_differ_until_it_is_broadcast(several, alone):
    def train():
        chosen, other, optimizer = variables(), Variable(np.zeros(4), name="other"), legacy.SGD(0.1, momentum=0.9)
        steps(optimizer, [*chosen, other], 2)
        mine = [(np.full(v.shape, index() + 1.0, "f4"), v) for v in chosen]
        if alone == "all":
            optimizer.apply_gradients(mine, experimental_aggregate_gradients=False)
        elif index() == 1:  # another optimizer, whose steps nobody else counts
            legacy.SGD(0.1).apply_gradients(mine, experimental_aggregate_gradients=False)
        steps(optimizer, [*chosen, other], 3)
        differs = distopt.digest(chosen)
        distopt.broadcast([*chosen, *optimizer.variables()])
        equal = distopt.digest(chosen)
        steps(optimizer, [*chosen, other], 2)
        if index() == several.count - 1:
            chosen[1].storage.array[0, 0] += 1
        return differs, equal, caught(steps, optimizer, [*chosen, other], 1)

    differing, equal, failures = zip(*several(checked, train), strict=True)
    assert len(set(differing)) > 1
    assert len(set(equal)) == 1
    assert_found(failures, 7 + (alone == "all"), "b")


def test_what_nobody_did_alone_is_checked_all_the_while(several):
    def train():
        alone, together = variables()[:1], variables()[1:]
        first, second = SGD(0.1), SGD(0.1)
        first.apply_gradients(
            [(np.full(v.shape, index(), "f4"), v) for v in alone], experimental_aggregate_gradients=False
        )
        steps(second, together, 2)
        if index() == 1:
            together[1].storage.array[3] += 1
        return caught(steps, second, together, 1)

    assert_found(several(checked, train), 2, "c")


# No false alarm


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@settings(max_examples=6)
@given(run=runs(), nodes=placements(), update=st.sampled_from(["replicated", "shared"]), streamed=st.booleans())
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")
def test_random_runs_are_not_suspected_and_keep_their_bits(run, nodes, update, streamed):
    def kind(communicator, update, state_every):
        return Strategy(communicator, update=update, checks=Checks(state_every=state_every))

    replicas = SimulatedReplicas(len(nodes), nodes)
    expected = replicas(train, run, functools.partial(kind, state_every=0), update, streamed)
    assert replicas(train, run, functools.partial(kind, state_every=1), update, streamed) == expected


BOTH_MODES = pytest.mark.parametrize("update", ["replicated", "shared"])


def mixed_steps(update, family):
    """Steps of all kinds over variables of all kinds, with writing in between that all replicas do alike."""
    a = Variable(np.full((100, 211), 0.5), dtype="float32", name="a", constraint=NonNeg())
    b = Variable(np.full((40, 3), 0.5), dtype="float64", name="b")
    c = Variable(np.full(9000, 0.5), dtype="bfloat16", name="c")
    d = Variable(0.5, dtype="float16", name="d")
    replicated = update == "replicated"
    hooks = {"gradient_transformers": [lambda pairs: [(g * 2, v) for g, v in pairs]]} if replicated else {}
    optimizer = family(**hooks)
    others = [SGD(0.1), legacy.SGD(0.1, momentum=0.5)]
    if replicated:
        others.append(SGD(0.1, gradient_aggregator=Stacked(lambda g: np.median(g, axis=0))))
        d.constraint = MaxNorm(3.0)
    for k in range(8):
        rng = np.random.default_rng([k, index()])
        rows = IndexedSlices(rng.normal(size=(4, 3)), rng.integers(40, size=4), (40, 3))
        pairs = [(rng.normal(size=a.shape), a), (rows if k % 3 else rows.to_dense(), b)]
        pairs += [(None if index() == k % 2 else rng.normal(size=9000), c), (rng.normal(), d)]
        pairs = [(g if g is None or isinstance(g, IndexedSlices) else np.asarray(g, v.dtype), v) for g, v in pairs]
        optimizer.apply_gradients(pairs, items=[0, 3, 1][(index() + k) % 3] if k % 2 else None)
        for other in others:
            chosen = [[c], [b, a], [d]][others.index(other)]
            steps(other, chosen, 1)
        if k == 2:
            b.assign(np.full((40, 3), 0.25))
            optimizer.set_weights([np.asarray(w) * 1 for w in optimizer.get_weights()])
        if k == 4:
            distopt.broadcast([a, b, c])
            c.assign_add(np.ones(9000))
        if k == 6:
            optimizer.iterations.assign(20)
    return digest(optimizer, [a, b, c, d])


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@pytest.mark.parametrize("family", [FAMILIES["Adam"], FAMILIES["legacy Adam"]], ids=["Keras 3", "legacy"])
@BOTH_MODES
def test_long_mixed_runs_are_not_suspected(placed, update, family):
    outcomes = placed(lambda: checked(mixed_steps, update, family, update=update))
    assert len(set(outcomes)) == 1


@BOTH_MODES
def test_streamed_steps_are_checked_and_not_suspected(several, update):
    def train():
        chosen, optimizer = variables(), Adam(0.1)
        for k in range(4):
            if k == 3 and index() == 0:
                chosen[1].storage.array[...] += 1
            optimizer.begin_step(chosen)
            for v in chosen[::-1]:
                optimizer.push(v, np.full(v.shape, index() + k, "f4"))
            failure = caught(optimizer.end_step) if k == 3 else optimizer.end_step() and None
        return failure

    assert_found(several(lambda: checked(train, update=update)), 3, "b")


def test_a_counter_that_was_set_is_no_change_of_slots(several):
    def train():
        chosen, optimizer = variables(), Adam(0.1)
        steps(optimizer, chosen, 4)  # the state before step 3 is noted, ...
        optimizer.iterations.assign(9)  # ... and the next check finds slots that a step has written since
        steps(optimizer, chosen, 2)
        return digest(optimizer, chosen)

    for update in ("shared", "replicated"):
        assert len(set(several(lambda update=update: checked(train, update=update, state_every=3)))) == 1
