"""Lists of variables that change from step to step: the numbers of full lists, in the memory of one list."""

import functools
import os

import numpy as np
import pytest
from parallel.caught import caught

import distopt
from distopt import IndexedSlices, Strategy, Variable
from distopt.distribute.agreement.checks import Checks
from distopt.errors import CollectiveMismatchError, InvalidArgumentError
from distopt.optimizers import SGD, Adam, legacy
from distopt.optimizers.common.access import engine_of
from distopt.process.moments import Moment
from distopt.process.observers import add_observer

SHAPES = [(5, 3), (9000,), (), (40, 200), (1,), (4097,)]
STEPS = 12

families = pytest.mark.parametrize("family", [SGD, Adam, legacy.SGD, legacy.Adam])
modes = pytest.mark.parametrize("update", ["replicated", "shared"])


def index():
    return distopt.replica_index()


def new_variables():
    return [Variable(np.full(shape, k, np.float32), name=f"v{k}") for k, shape in enumerate(SHAPES)]


def lists():
    """Random lists of entries in random orders, the same on every replica."""
    random = np.random.default_rng(7)
    for step in range(STEPS):
        count = random.integers(1, len(SHAPES) + 1)
        yield step, [int(k) for k in random.permutation(len(SHAPES))[:count]]


def gradient(step, entry, replica):
    random = np.random.default_rng([step, entry, replica])
    return random.integers(-8, 9, SHAPES[entry]).astype(np.float32)


def run(family, *, how, replicas, is_summed=False):
    """Train over changing lists; return the values, and how many slabs there were."""
    variables, optimizer = new_variables(), family(learning_rate=0.125)
    if hasattr(optimizer, "build"):
        optimizer.build(variables)
    for step, entries in lists():
        listed = [variables[k] for k in entries]
        mine = range(replicas) if is_summed else [index()]
        gradients = [sum(gradient(step, k, r) for r in mine) for k in entries]
        how(optimizer, listed, gradients)
    return [variable.numpy() for variable in variables], len(engine_of(optimizer).plans)


def apply(optimizer, variables, gradients):
    optimizer.apply_gradients(zip(gradients, variables, strict=True))


def apply_buffers(optimizer, variables, gradients):
    buffers = optimizer.gradient_buffers(variables)
    for buffer, values in zip(buffers, gradients, strict=True):
        buffer[...] = values
    apply(optimizer, variables, buffers)


def stream(optimizer, variables, gradients):
    optimizer.begin_step(variables)
    for variable, values in reversed(list(zip(variables, gradients, strict=True))):
        optimizer.push(variable, values)
    optimizer.end_step()


def alone(family, replicas):
    """Return what one replica makes of the joined batch, each step over a full list with None for what is left out."""

    def train():
        variables, optimizer = new_variables(), family(learning_rate=0.125)
        for step, entries in lists():
            gradients = [
                sum(gradient(step, k, r) for r in range(replicas)) if k in entries else None for k in range(len(SHAPES))
            ]
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return [variable.numpy() for variable in variables]

    return distopt.simulate(1, train)[0]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("how", [apply, apply_buffers, stream])
@modes
@families
def test_the_numbers_are_those_of_full_lists(replicas, family, update, how):
    def train():
        with Strategy(distopt.get_strategy().communicator, update=update).scope():
            return run(family, how=how, replicas=replicas.count)

    expected = alone(family, replicas.count)
    for values, plans in replicas(train):
        assert plans == 1
        for value, right in zip(values, expected, strict=True):
            np.testing.assert_array_equal(value, right)


def open_files():
    """Count the files of this process while no other thread of it opens one."""
    distopt.barrier()
    count = len(os.listdir("/proc/self/fd")) if index() == 0 else 0
    distopt.barrier()
    return count


@modes
def test_no_list_keeps_memory_or_files(several, update):
    def train():
        with Strategy(distopt.get_strategy().communicator, update=update).scope():
            variables, optimizer = new_variables(), legacy.SGD(0.125, momentum=0.5)
            apply(optimizer, variables, [np.zeros(shape, np.float32) for shape in SHAPES])
            before = open_files()
            for k in range(1, 2 ** len(SHAPES)):
                listed = [variable for bit, variable in enumerate(variables) if k >> bit & 1]
                apply(optimizer, listed, [np.ones(v.shape, np.float32) for v in listed])
            return before, open_files()

    for before, after in several(train):
        assert after <= before


def test_a_list_that_is_asked_for_again_is_described_once(replicas):
    def train():
        variables, optimizer = new_variables(), SGD(0.125)
        described = []
        for entries in ([0, 1, 2, 3, 4, 5], [4, 1]) * 4:
            listed = [variables[k] for k in entries]
            gradients = [np.zeros(SHAPES[k], np.float32) for k in entries]
            apply_buffers(optimizer, listed, gradients)
            stream(optimizer, listed, gradients)
            (plan,) = engine_of(optimizer).plans.values()
            described.append(len(plan.digests))
        return described

    for described in replicas(train):
        assert described[2:] == described[1:2] * 6


def test_hooks_see_the_order_of_the_list(replicas):
    def train():
        seen = []

        def note(pairs):
            seen.append([variable.name for _, variable in pairs])
            return pairs

        variables, optimizer = new_variables(), SGD(0.125, gradient_transformers=[note])
        for entries in ([0, 1, 2, 3, 4, 5], [4, 1], [5, 4, 3, 2, 1, 0]):
            apply(optimizer, [variables[k] for k in entries], [gradient(0, k, index()) for k in entries])
        return seen

    expected = [["v0", "v1", "v2", "v3", "v4", "v5"], ["v4", "v1"], ["v5", "v4", "v3", "v2", "v1", "v0"]]
    assert replicas(train) == [expected] * replicas.count


def test_other_lists_are_a_mismatch_that_names_them(several):
    def train():
        a, b, c = (Variable(np.float32([0, 0]), name=name) for name in ("a", "b", "same"))
        twin = Variable(np.float32([0, 0]), name="same")
        optimizer, one = legacy.SGD(0.5), np.float32([1, 1])
        optimizer.apply_gradients([(one, each) for each in (a, b, c, twin)])
        names = caught(optimizer.apply_gradients, [(one, a if index() else b)])
        twins = caught(optimizer.apply_gradients, [(one, c if index() else twin)])
        return names, twins, a.numpy().tolist(), c.numpy().tolist()

    for names, twins, a, c in several(train):
        assert names.kind is twins.kind is CollectiveMismatchError
        assert "b: float32[2] (numbers 1 of 4)" in names.text
        assert "a: float32[2] (numbers 0 of 4)" in names.text
        assert "numbers 2 of 4" in twins.text
        assert "numbers 3 of 4" in twins.text
        assert a == c == [-0.5 * several.count] * 2


def test_buffers_of_a_part_are_those_of_the_whole(replicas):
    def train():
        variables, optimizer = new_variables(), SGD(0.125)
        whole = optimizer.gradient_buffers(variables)
        before = [optimizer.gradient_buffers([v])[0] is buffer for v, buffer in zip(variables, whole, strict=True)]
        apply(optimizer, variables, whole)
        after = optimizer.gradient_buffers(variables[::-1])[::-1]
        return before, [a is b for a, b in zip(after, whole, strict=True)]

    everything = [True] * len(SHAPES)
    assert replicas(train) == [(everything, everything)] * replicas.count


def test_what_one_replica_has_asked_for_alone_changes_nothing(replicas):
    def train():
        variables, optimizer = new_variables(), legacy.SGD(0.125)
        if index() == replicas.count - 1:
            optimizer.gradient_buffers(variables[3:])
            optimizer.gradient_buffers(variables[1:2])
        for entries in ([1, 2], [0, 3, 1], [5]):
            apply(optimizer, [variables[k] for k in entries], [gradient(0, k, index()) for k in entries])
        return [variable.numpy() for variable in variables]

    counts = [1, 2, 1, 1, 0, 1]
    for values in replicas(train):
        for k, value in enumerate(values):
            total = sum(gradient(0, k, r) for r in range(replicas.count))
            np.testing.assert_array_equal(value, np.float32(k) - 0.125 * counts[k] * total)


def test_rows_of_a_part(replicas):
    def train():
        table, bias = Variable(np.zeros((4, 2), np.float32)), Variable(np.zeros(3, np.float32))
        optimizer = SGD(1.0)
        apply(optimizer, [table, bias], [np.zeros((4, 2), np.float32), np.zeros(3, np.float32)])
        rows = IndexedSlices(np.ones((2, 2), np.float32), [index() % 4, 3], (4, 2))
        apply(optimizer, [table], [rows])
        apply(optimizer, [bias, table], [np.ones(3, np.float32), rows])
        return table.numpy(), bias.numpy()

    expected = np.zeros((4, 2))
    for r in range(replicas.count):
        expected[[r % 4, 3]] -= 2 if r % 4 != 3 else 0
        expected[3] -= 4 if r % 4 == 3 else 0
    for table, bias in replicas(train):
        np.testing.assert_array_equal(table, expected)
        np.testing.assert_array_equal(bias, -np.ones(3) * replicas.count)


def test_micro_steps_may_list_other_variables(replicas):
    def train():
        a, b = Variable(np.float32([0])), Variable(np.float32([0]))
        optimizer = SGD(1.0, gradient_accumulation_steps=2)
        optimizer.build([a, b])
        one = np.float32([1])
        optimizer.apply_gradients([(one, b)], items=1)
        optimizer.apply_gradients([(one, a), (one, b)], items=1)
        optimizer.apply_gradients([(one, b)], items=1)
        optimizer.apply_gradients([(one, b)], items=1)
        optimizer.apply_gradients([(one, a)], items=1)
        left = caught(functools.partial(optimizer.apply_gradients, items=1), [(one, b)])
        return float(a[0]), float(b[0]), left

    for a, b, left in replicas(train):
        assert (a, b) == (-0.5, -2.0)
        assert left.kind is InvalidArgumentError
        assert "lists no" in left.text


def test_a_step_that_did_not_aggregate_marks_its_list_only(several):
    def train():
        variables, optimizer = new_variables(), SGD(0.125)
        with Strategy(distopt.get_strategy().communicator, checks=Checks(state_every=1)).scope():
            apply(optimizer, variables, [gradient(0, k, 0) for k in range(len(SHAPES))])
            own = [(gradient(1, 2, index()), variables[2])]
            optimizer.apply_gradients(own, experimental_aggregate_gradients=False)
            return [variable.storage.may_differ for variable in variables]

    assert several(train) == [[k == 2 for k in range(len(SHAPES))]] * several.count


def test_observers_see_the_listed_variables_only(several):
    def train():
        seen = []
        add_observer(lambda _, report: seen.append(report.names), Moment.UPDATED)
        variables, optimizer = new_variables(), SGD(0.125)
        for entries in ([0, 1, 2, 3, 4, 5], [4, 1]):
            apply(optimizer, [variables[k] for k in entries], [gradient(0, k, index()) for k in entries])
        return seen

    expected = [["v0", "v1", "v2", "v3", "v4", "v5"], ["v4", "v1"]]
    assert several(train) == [expected] * several.count
