"""A step whose sum is not finite can be left out; without a look nothing is; a look changes no bit."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parallel.agreement.looking import (
    LARGE,
    LIMIT_NAMES,
    LIMITS,
    MODES,
    good,
    index,
    looking,
    state,
    step,
    two_good_steps,
    variables,
)
from parallel.caught import warned
from parallel.random_steps import placements, runs, train

from distopt import Checks, Strategy
from distopt.optimizers import SGD, Adam
from distopt.testing import SimulatedReplicas


@pytest.mark.parametrize("limits", LIMITS, ids=LIMIT_NAMES)
@pytest.mark.parametrize("update", MODES)
def test_a_skipped_step_is_as_if_it_had_not_been(placed, update, limits):
    def make():
        return Adam(0.1, **limits)

    def run():
        chosen, optimizer = variables(), make()
        step(optimizer, good(0, chosen), chosen)
        before = state(optimizer, chosen)
        for element in (0, LARGE - 1):
            gradients = good(9, chosen)
            if index() == 1:
                gradients[1][element] = np.nan
            step(optimizer, gradients, chosen)
        after = state(optimizer, chosen)
        step(optimizer, good(1, chosen), chosen)
        return before == after, state(optimizer, chosen)

    outcomes, messages = warned(placed, lambda: looking(run, update=update, on_nonfinite="skip"))
    expected = placed(lambda: looking(two_good_steps, make, update=update))
    assert outcomes == [(True, end) for end in expected]
    assert len(messages) == 2
    for message in messages:
        assert f"'v{LARGE}': replica 1. " in message
        assert message.endswith(" Nothing was updated; the step is left out")


def test_streamed_steps_are_skipped_too(several, monkeypatch):
    monkeypatch.setenv("DISTOPT_BUCKET_BYTES", "1")

    def run():
        chosen, optimizer = variables(), Adam(0.1)
        for bad in (False, True, False):
            optimizer.begin_step(chosen)
            for v in chosen:
                optimizer.push(v, np.full(v.shape, np.nan if bad and index() == 1 else 1.0, "f4"))
            optimizer.end_step()
        return int(optimizer.iterations.numpy()), bool(np.isfinite(chosen[1].numpy()).all())

    for update in MODES:
        outcomes, messages = warned(several, lambda update=update: looking(run, update=update, on_nonfinite="skip"))
        assert outcomes == [(2, True)] * several.count
        assert len(messages) == 1


@pytest.mark.parametrize("update", MODES)
def test_by_default_nobody_looks(several, update):
    def run():
        chosen, optimizer = variables(), SGD(0.1)
        step(optimizer, [np.full(5, np.nan), good(0, chosen)[1]], chosen)
        return int(optimizer.iterations.numpy()), np.isnan(chosen[0].numpy()).all(), chosen[1].numpy().any()

    for steps, is_nan, is_updated in several(lambda: looking(run, update=update, on_nonfinite=None)):
        assert steps == 1
        assert is_nan
        assert is_updated


# Bits


@settings(max_examples=10)
@given(run=runs(), nodes=placements(), update=st.sampled_from(MODES), streamed=st.booleans())
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")
@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
def test_the_look_changes_no_bit(run, nodes, update, streamed):
    def kind(communicator, update, on_nonfinite):
        return Strategy(communicator, update=update, checks=Checks(on_nonfinite=on_nonfinite))

    replicas = SimulatedReplicas(len(nodes), nodes)
    expected = replicas(train, run, functools.partial(kind, on_nonfinite=None), update, streamed)
    assert replicas(train, run, functools.partial(kind, on_nonfinite="raise"), update, streamed) == expected
