"""None"""

import numpy as np
import pytest
from parallel.caught import ODD, caught, is_odd

import distopt
from distopt import Variable
from distopt.errors import (
    CollectiveMismatchError,
)
from distopt.optimizers import SGD, Adam, legacy


def difference(several, act):
    """The error that all replicas get alike; afterwards they can go on."""
    outcomes = several(lambda: (caught(act), float(distopt.all_reduce(1.0))))
    failure, total = outcomes[0]
    assert outcomes == [(failure, total)] * several.count
    assert failure.kind is CollectiveMismatchError
    assert total == several.count
    return failure.text


def assert_table(text, count, label, odd, others):
    """The table says what the odd replica has under a label, and what all others have."""
    rest = [str(r) for r in range(count) if r != ODD]
    who = f"replica{'s' * (len(rest) > 1)} {', '.join(rest)}"
    line = next(line for line in text.splitlines() if line.startswith(f"  {label}: replica {ODD}: "))
    assert odd in line
    line = next(line for line in text.splitlines() if line.startswith(f"  {label}: {who}: "))
    assert others in line


@pytest.mark.parametrize(
    ("act", "label", "odd", "others"),
    [
        (lambda: distopt.barrier() if is_odd() else distopt.all_reduce(1.0), "call", "barrier", "all_reduce"),
        (lambda: distopt.all_reduce(1.0, "max" if is_odd() else "sum"), "call", "op='max'", "op='sum'"),
        (lambda: distopt.all_reduce(np.zeros(4 if is_odd() else 3)), "shape", "(4,)", "(3,)"),
        (lambda: distopt.all_reduce(np.zeros((2, 2) if is_odd() else 4)), "shape", "(2, 2)", "(4,)"),
        (lambda: distopt.all_reduce(np.zeros(3, "f4" if is_odd() else "f8")), "dtype", "float32", "float64"),
        (lambda: distopt.all_gather(np.zeros(4 if is_odd() else 3)), "shape", "(4,)", "(3,)"),
        (lambda: distopt.broadcast(1.0, source=int(is_odd())), "call", "source=1", "source=0"),
        (lambda: distopt.broadcast(np.zeros(4 if is_odd() else 3)), "arrays", "[4]", "[3]"),
    ],
    ids=["call", "op", "shape", "rank", "dtype", "gather", "source", "broadcast"],
)
def test_collectives_that_differ(several, act, label, odd, others):
    assert_table(difference(several, act), several.count, label, odd, others)


def test_the_table_shows_what_differs_only(several):
    def act():
        distopt.all_gather(np.zeros(3, "f4")) if is_odd() else distopt.all_reduce(np.zeros(4, "f8"))

    text = difference(several, act)
    assert "shape" not in text
    assert "dtype" not in text


def a_and_b():
    return [Variable(np.zeros(2), name="a"), Variable(np.zeros(2), name="b")]


LISTS = {
    "order": (lambda: a_and_b()[::-1], a_and_b, "b: float64[2], a: float64[2]", "a: float64[2], b: float64[2]"),
    "count": (lambda: a_and_b()[:1], a_and_b, "a: float64[2]", "b: float64[2]"),
    "shape": (
        lambda: [Variable(np.zeros((2, 1)), name="a")],
        lambda: a_and_b()[:1],
        "a: float64[2, 1]",
        "a: float64[2]",
    ),
    "dtype": (
        lambda: [Variable(np.zeros(2, np.float32), name="a")],
        lambda: a_and_b()[:1],
        "a: float32[2]",
        "a: float64[2]",
    ),
}


@pytest.mark.parametrize("family", [SGD, Adam, legacy.SGD, legacy.Adam])
@pytest.mark.parametrize(("odd", "others", "odd_text", "text"), LISTS.values(), ids=LISTS)
def test_variables_that_differ(several, family, odd, others, odd_text, text):
    def act():
        variables = (odd if is_odd() else others)()
        family(learning_rate=0.1).apply_gradients([(np.ones_like(v), v) for v in variables])

    assert_table(difference(several, act), several.count, "variables", odd_text, text)


def test_variables_that_differ_in_a_later_step(several):
    def act():
        a, b = a_and_b()
        optimizer = legacy.SGD(learning_rate=0.1)
        optimizer.apply_gradients([(np.ones(2), a), (np.ones(2), b)])
        pairs = [(np.ones(2), b), (np.ones(2), a)] if is_odd() else [(np.ones(2), a), (np.ones(2), b)]
        optimizer.apply_gradients(pairs)

    odd, others = "b: float64[2], a: float64[2] (numbers 1, 0 of 2)", "a: float64[2], b: float64[2]"
    assert_table(difference(several, act), several.count, "variables", odd, others)


def test_variables_that_are_new_on_one_replica(several):
    def act():
        a, b = a_and_b()
        optimizer = legacy.SGD(learning_rate=0.1)
        optimizer.apply_gradients([(np.ones(2), a)])
        optimizer.apply_gradients([(np.ones(2), b if is_odd() else a)])

    assert_table(difference(several, act), several.count, "call", "first step", "apply_gradients")


STEPS = {
    "clipnorm": (lambda make: make(clipnorm=2.0), lambda make: make(clipnorm=1.0), "clipnorm", "2.0", "1.0"),
    "no clipping": (lambda make: make(), lambda make: make(clipvalue=1.0), "clipvalue", "-", "1.0"),
    "kind of clipping": (
        lambda make: make(clipvalue=1.0),
        lambda make: make(clipnorm=1.0),
        "clipvalue",
        "1.0",
        "-",
    ),
    "learning rate": (
        lambda make: make(learning_rate=0.5),
        lambda make: make(learning_rate=0.25),
        ("learning_rate", "lr_t"),
        "0.5",
        "0.25",
    ),
    "function": (
        lambda make: make(learning_rate=lambda: 0.5),
        lambda make: make(learning_rate=lambda: 0.25),
        ("learning_rate", "lr_t"),
        "0.5",
        "0.25",
    ),
    "momentum": (
        lambda make: make(momentum=0.5),
        lambda make: make(momentum=0.25),
        "momentum",
        "0.5",
        "0.25",
    ),
    "transformers": (
        lambda make: make(gradient_transformers=[list]),
        lambda make: make(),
        "optimizer",
        "list",
        "SGD",
    ),
    "aggregator": (
        lambda make: make(gradient_aggregator=distopt.aggregators.Sum()),
        lambda make: make(),
        "optimizer",
        "Sum",
        "SGD",
    ),
}


@pytest.mark.parametrize("family", [SGD, legacy.SGD])
@pytest.mark.parametrize(("odd", "others", "label", "odd_text", "text"), STEPS.values(), ids=STEPS)
def test_options_that_differ(several, family, odd, others, label, odd_text, text):
    def act():
        optimizer = (odd if is_odd() else others)(family)
        optimizer.apply_gradients([(np.ones(2), Variable(np.zeros(2), name="a"))])

    message = difference(several, act)
    lines = [line.strip() for line in message.splitlines()]
    label = next(line.split(":")[0] for line in lines if line.startswith(label))
    assert_table(message, several.count, label, odd_text, text)


@pytest.mark.parametrize("family", [SGD, legacy.SGD])
def test_a_learning_rate_that_is_changed_on_one_replica(several, family):
    def act():
        a = Variable(np.zeros(2))
        optimizer = family(learning_rate=0.5)
        optimizer.apply_gradients([(np.ones(2), a)])
        if is_odd():
            optimizer.learning_rate = 0.125
        failure = caught(optimizer.apply_gradients, [(np.ones(2), a)])
        return failure, a.numpy().tolist(), int(optimizer.iterations), float(distopt.all_reduce(1.0))

    outcomes = several(act)
    assert outcomes == outcomes[:1] * several.count
    failure, value, steps, _ = outcomes[0]
    assert failure.kind is CollectiveMismatchError
    assert "0.125" in failure.text
    assert "0.5" in failure.text
    assert (value, steps) == ([-0.5 * several.count] * 2, 1)


def test_different_classes(several):
    def act():
        optimizer = Adam() if is_odd() else SGD()
        optimizer.apply_gradients([(np.ones(2), Variable(np.zeros(2)))])

    assert_table(difference(several, act), several.count, "call", "Adam", "SGD")


@pytest.mark.parametrize("family", [SGD, legacy.SGD])
def test_items_on_one_replica_only(several, family):
    def act():
        optimizer = family()
        optimizer.apply_gradients([(np.ones(2), Variable(np.zeros(2)))], items=3 if is_odd() else None)

    assert_table(difference(several, act), several.count, "items=", "given", "not given")


@pytest.mark.parametrize("family", [SGD, legacy.SGD])
def test_a_different_number_of_steps(several, family):
    def act():
        a, optimizer = Variable(np.zeros(2)), family()
        for _ in range(3 if is_odd() else 2):
            optimizer.apply_gradients([(np.ones(2), a)])
        distopt.barrier()

    assert_table(difference(several, act), several.count, "call", "apply_gradients", "barrier")


def test_a_different_count_of_steps(several):
    def act():
        a, optimizer = Variable(np.zeros(2)), SGD()
        optimizer.apply_gradients([(np.ones(2), a)])
        if is_odd():
            optimizer.iterations.assign(7)
        optimizer.apply_gradients([(np.ones(2), a)])

    assert_table(difference(several, act), several.count, "step", "7", "1")


def test_a_step_without_aggregation_on_one_replica_only(several):
    def act():
        a, optimizer = Variable(np.zeros(2)), legacy.SGD()
        optimizer.apply_gradients([(np.ones(2), a)], experimental_aggregate_gradients=not is_odd())
        distopt.barrier()

    assert_table(difference(several, act), several.count, "call", "barrier", "SGD")


@pytest.mark.parametrize("family", [SGD, legacy.SGD])
def test_a_mismatch_changes_nothing(several, family):
    def act():
        a, optimizer = Variable(np.ones(2), name="a"), family(learning_rate=0.5)
        optimizer.apply_gradients([(np.ones(2), a)])
        failure = caught(lambda: optimizer.apply_gradients([(np.ones(2), a)], items=1 if is_odd() else None))
        state = a.numpy().tolist(), int(optimizer.iterations)
        optimizer.apply_gradients([(np.ones(2), a)])
        return failure.kind, state, a.numpy().tolist()

    step = 0.5 * several.count
    expected = (CollectiveMismatchError, ([1 - step] * 2, 1), [1 - 2 * step] * 2)
    assert several(act) == [expected] * several.count
