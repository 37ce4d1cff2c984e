"""A sum that is not finite is found on all replicas, named, and nothing is written; all else stays as it is."""

import functools

import numpy as np
import pytest
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
from parallel.caught import caught

import distopt
from distopt import IndexedSlices, Variable
from distopt.aggregators import Stacked
from distopt.errors import NonFiniteGradientError
from distopt.optimizers import SGD, Adam, legacy

FAMILIES = {"Adam": Adam, "legacy momentum": functools.partial(legacy.SGD, momentum=0.9)}


FAMILY_AND_LIMITS = list(zip([*FAMILIES] * 2, LIMITS, strict=True))


def around(optimizer, chosen, bad_step):
    """A good step, a bad one, a good one: the failure, and what the bad step has left."""
    step(optimizer, good(0, chosen), chosen)
    before = state(optimizer, chosen)
    failure = caught(bad_step)
    after = state(optimizer, chosen)
    step(optimizer, good(1, chosen), chosen)
    return failure, before == after, state(optimizer, chosen)


def assert_refused(outcomes, expected, found, number=1):
    """All replicas have the same error; nothing was written; the step after it is as if there had been no bad one."""
    failures, kept, ends = zip(*outcomes, strict=True)
    assert {failure.kind for failure in failures} == {NonFiniteGradientError}
    assert len(set(failures)) == 1
    text = failures[0].text
    assert text.startswith(f"step {number}: the sum of the gradients is not finite: ")
    assert found in text, text
    assert "Nothing was updated" in text
    assert all(kept)
    assert list(ends) == expected


# Raise


@pytest.mark.parametrize(("family", "limits"), FAMILY_AND_LIMITS, ids=LIMIT_NAMES)
@pytest.mark.parametrize("update", MODES)
def test_an_element_of_one_replica(several, update, family, limits):
    def make():
        return FAMILIES[family](0.1, **limits)

    def run(position, bad):
        chosen, optimizer = variables(), make()

        def bad_step():
            gradients = good(9, chosen)
            if index() == 1:
                gradients[1][position] = bad
            step(optimizer, gradients, chosen)

        return around(optimizer, chosen, bad_step)

    expected = several(lambda: looking(two_good_steps, make, update=update))
    # The last replica owns the last element: with two of them the culprit itself.
    for position, bad in ((LARGE - 1, np.nan), (0, -np.inf)):
        outcomes = several(lambda position=position, bad=bad: looking(run, position, bad, update=update))
        assert_refused(outcomes, expected, f"'v{LARGE}': replica 1")


@pytest.mark.parametrize("update", MODES)
def test_several_replicas_and_variables(placed, update):
    culprits = [0, placed.count - 1]

    def run():
        chosen, optimizer = variables(), Adam(0.1)

        def bad_step():
            gradients = good(9, chosen)
            if index() in culprits:
                gradients[1][:] = np.nan  # everywhere, not only where another replica sums
            if index() == 1:
                gradients[0][2] = np.inf
            step(optimizer, gradients, chosen, items=3)

        return around(optimizer, chosen, bad_step)

    outcomes = placed(lambda: looking(run, update=update))
    expected = placed(lambda: looking(two_good_steps, lambda: Adam(0.1), update=update))
    named = ", ".join(map(str, culprits))
    assert_refused(outcomes, expected, f"'v5': replica 1; 'v{LARGE}': replicas {named}. Nothing")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("update", MODES)
@pytest.mark.parametrize("others", ["sparse", "dense", "absent"])
def test_rows(several, update, family, others):
    def run():
        v, w, optimizer = (
            Variable(np.full((300, 4), 0.5, "f4"), name="v"),
            Variable(np.zeros(3, "f4")),
            FAMILIES[family](0.1),
        )
        chosen = [v, w]

        def bad_step():
            rows = IndexedSlices(np.full((3, 4), 2.0, "f4"), [7, 200, 7], v.shape)
            if index() == 1:
                rows.values[2, 1] = np.nan
                gradient = rows
            else:
                gradient = {"sparse": rows, "dense": rows.to_dense(), "absent": None}[others]
            step(optimizer, [gradient, good(9, chosen)[1]], chosen)

        return around(optimizer, chosen, bad_step)

    outcomes = several(lambda: looking(run, update=update))
    assert len({end for *_, end in outcomes}) == 1
    assert_refused(outcomes, [end for *_, end in outcomes], "'v': replica 1")
    assert outcomes[0][2][1] == 2


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@pytest.mark.parametrize(("dtype", "part"), [("float16", 40_000), ("float32", 2e38), ("float64", 1e308)])
@pytest.mark.parametrize("update", MODES)
def test_an_overflow_of_finite_numbers(several, update, dtype, part):
    def run():
        chosen, optimizer = variables(dtype), Adam(0.1)

        def bad_step():
            gradients = good(9, chosen)
            gradients[1][LARGE // 2] = part
            step(optimizer, gradients, chosen)

        return around(optimizer, chosen, bad_step)

    outcomes = several(lambda: looking(run, update=update))
    expected = several(lambda: looking(two_good_steps, lambda: Adam(0.1), dtype, update=update))
    assert_refused(outcomes, expected, "an overflow of the sum of finite gradients")


@pytest.mark.parametrize("limits", LIMITS[:2], ids=LIMIT_NAMES[:2])
@pytest.mark.parametrize("update", MODES)
def test_squares_that_overflow_are_no_hit(replicas, update, limits):
    def run():
        v, optimizer = Variable(np.zeros(LARGE), name="v", dtype="float64"), SGD(1e-30, **limits)
        for _ in range(2):
            step(optimizer, [np.full(LARGE, 1e200)], [v])
        return state(optimizer, [v]), bool(np.isfinite(v.numpy()).all() and v.numpy().any())

    outcomes = replicas(lambda: looking(run, update=update))
    assert outcomes == replicas(lambda: looking(run, update=update, on_nonfinite=None))
    assert all(is_finite for _, is_finite in outcomes)


def test_one_replica_looks_too():
    def run():
        chosen, optimizer = variables(), Adam(0.1)
        return around(optimizer, chosen, lambda: step(optimizer, [np.full(5, np.nan), np.zeros(LARGE)], chosen))

    assert_refused([looking(run)], [two_good_steps(lambda: Adam(0.1))], "'v5': replica 0")


# Other ways to step


@pytest.mark.parametrize("update", MODES)
@pytest.mark.parametrize("limits", [{}, {"clipvalue": 0.5, "clipnorm": 1.0}], ids=["none", "two limits"])
@pytest.mark.parametrize("bucket", ["1", "1000000000"])
def test_streamed_steps(several, monkeypatch, update, limits, bucket):
    if update == "shared":
        limits = dict(list(limits.items())[:1])  # with both the mode is refused
    monkeypatch.setenv("DISTOPT_BUCKET_BYTES", bucket)

    def stream(optimizer, gradients, chosen):
        optimizer.begin_step(chosen)
        for gradient, v in list(zip(gradients, chosen, strict=True))[::-1]:
            optimizer.push(v, gradient)
        optimizer.end_step()

    def run(bad_element):
        chosen, optimizer = variables(), legacy.Adam(0.1, **limits)
        stream(optimizer, good(0, chosen), chosen)
        before = state(optimizer, chosen)
        gradients = good(9, chosen)
        if index() == 1:
            gradients[1][bad_element] = np.inf
        failure = caught(stream, optimizer, gradients, chosen)
        after = state(optimizer, chosen)
        stream(optimizer, good(1, chosen), chosen)
        return failure, before == after, state(optimizer, chosen)

    expected = several(lambda: looking(two_good_steps, lambda: legacy.Adam(0.1, **limits), update=update))
    for bad_element in (0, LARGE - 1):
        outcomes = several(lambda k=bad_element: looking(run, k, update=update))
        assert_refused(outcomes, expected, f"'v{LARGE}': replica 1")


HOOKS = {
    "transformer": {"gradient_transformers": [lambda pairs: [(g * 2, v) for g, v in pairs]]},
    "aggregator": {"gradient_aggregator": Stacked(lambda g: g.sum(axis=0))},
    "function": {"gradient_aggregator": lambda pairs: [(distopt.all_reduce(g), v) for g, v in pairs]},
}


@pytest.mark.parametrize("name", HOOKS)
def test_hooks(several, name):
    def make():
        return Adam(0.1, **HOOKS[name])

    def run():
        chosen, optimizer = variables(), make()

        def bad_step():
            gradients = good(9, chosen)
            if index() == 1:
                gradients[1][3] = np.nan
            step(optimizer, gradients, chosen)

        return around(optimizer, chosen, bad_step)

    assert_refused(several(looking, run), several(looking, two_good_steps, make), f"'v{LARGE}': replica 1")


def test_an_aggregator_that_leaves_out_what_is_not_finite_is_no_hit(several):
    def run():
        v = Variable(np.zeros(4), name="v")
        optimizer = SGD(1.0, gradient_aggregator=Stacked(lambda g: np.nanmax(g, axis=0)))
        step(optimizer, [np.full(4, np.nan if index() == 1 else 1.0)], [v])
        return v.numpy().tolist()

    assert several(looking, run) == [[-1.0] * 4] * several.count


def test_an_aggregator_that_does_not_aggregate_keeps_the_replicas_together(several):
    def run():
        v = Variable(np.zeros(4), name="v")
        optimizer = SGD(1.0, gradient_aggregator=lambda pairs: pairs)
        failure = caught(step, optimizer, [np.full(4, np.nan if index() == 1 else 1.0)], [v])
        return failure, float(distopt.all_reduce(1.0)), v.numpy().tolist()

    for failure, total, value in several(looking, run):
        assert failure.kind is NonFiniteGradientError
        assert "'v': replica 1" in failure.text
        assert total == several.count
        assert value == [0.0] * 4
