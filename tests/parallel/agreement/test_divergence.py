"""State that differs between replicas, or changes between steps, is found."""

import functools

import numpy as np
import pytest
from parallel.agreement.checked import FAMILIES, assert_found, checked, digest, index, steps, variables
from parallel.caught import caught, warned

import distopt
from distopt import Checks, Strategy, Variable
from distopt.errors import CollectiveMismatchError
from distopt.optimizers import SGD, Adam
from distopt.optimizers.common.access import engine_of

LARGE = 60_000
"""Elements: every one of eight replicas owns a part."""


def slot_of(optimizer, variable):
    return next(slot for (owner, _), slot in engine_of(optimizer).slots.table.items() if owner is variable)


# Replicated


@pytest.mark.parametrize("what", ["parameter", "slot"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_on_one_replica_is_found_on_all_at_the_next_checked_step(several, family, what):
    def train():
        chosen, optimizer = variables(), FAMILIES[family]()
        steps(optimizer, chosen, 4 if what == "parameter" else 6)
        changed = chosen[1] if what == "parameter" else slot_of(optimizer, chosen[1])
        if index() == 1:
            changed.storage.array.reshape(-1).view(np.uint8)[-1] ^= 1  # one bit
        steps(optimizer, chosen, 2 if what == "parameter" else 0)  # a slot would soon change its parameter
        before = distopt.digest(chosen)
        failure = caught(steps, optimizer, chosen, 1)
        is_kept = distopt.digest(chosen) == before and int(optimizer.iterations.numpy()) == 6
        return failure, is_kept, changed.name

    failures, kept, names = zip(*several(checked, functools.partial(checked, train, state_every=3)), strict=True)
    text = assert_found(failures, 6, names[0])
    assert all(kept)
    others = [str(r) for r in range(several.count) if r != 1]
    assert f"(digests: replica{'s' * (len(others) > 1)} {', '.join(others)}: " in text
    assert "; replica 1: " in text
    assert "It was equal, or not compared yet, 3 steps before" in text


def test_the_first_of_several_variables_is_named_and_all_are_counted(several):
    def train():
        chosen, optimizer = variables(), SGD(0.1)
        steps(optimizer, chosen, 1)
        for k in (1, 2):
            chosen[k].storage.array[0] += np.float32(index())
        return caught(steps, optimizer, chosen, 1)

    text = assert_found(several(checked, train), 1, "b")
    assert "'c'" not in text
    assert "in 2 of 4 variables" in text  # three parameters and the counter of steps
    assert text.count("replica ") >= several.count


def test_what_is_made_equal_again_goes_on(several):
    def train():
        chosen, optimizer = variables(), Adam(0.1)
        steps(optimizer, chosen, 2)
        if index() == 0:
            chosen[0].storage.array[0] = 9.0
        failures = [caught(steps, optimizer, chosen, 1) for _ in range(2)]
        distopt.broadcast(chosen, source=1)
        steps(optimizer, chosen, 2)
        return failures, digest(optimizer, chosen)

    failures, digests = zip(*several(checked, train), strict=True)
    for both in zip(*failures, strict=True):
        assert_found(both, 2, "a")
    assert len(set(digests)) == 1


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_resynchronised_replicas_go_on_from_replica_0(several, family, victim):
    def train(changed_on):
        chosen, optimizer = variables(), FAMILIES[family]()
        steps(optimizer, chosen, 3)
        if index() in changed_on:
            chosen[0].storage.array[2] = 7.0
            slot_of(optimizer, chosen[2]).storage.array[...] *= 2
        steps(optimizer, chosen, 4)
        return digest(optimizer, chosen)

    checks = {"state_every": 4, "on_divergence": "resync"}
    results, messages = warned(several, lambda: checked(train, [victim], **checks))
    # The bits are those of a run in which all replicas, or none, went replica 0's way.
    alike = several(lambda: checked(train, range(several.count) if victim == 0 else []))
    assert results == alike
    assert len(set(alike)) == 1
    (message,) = messages
    assert message.startswith("before step 4 the replicas' state differs, first in 'a' ")
    assert "in 3 of " in message  # a, the slot, and c by it
    assert message.endswith("All go on from replica 0's values")


def test_resynchronised_parameters_are_seen_by_open_tapes(several):
    def train():
        chosen, optimizer = variables(), SGD(0.1)
        steps(optimizer, chosen, 1)
        chosen[0].storage.array[0] += np.float32(index())
        before = chosen[0].storage.writes, chosen[1].storage.writes
        steps(optimizer, chosen, 1)
        return chosen[0].storage.writes - before[0], chosen[1].storage.writes - before[1]

    results, _ = warned(several, lambda: checked(train, on_divergence="resync"))
    assert results == [(2, 1)] * several.count


@pytest.mark.parametrize("options", [{"state_every": 0}, {"broadcast": False}])
def test_what_is_not_to_be_checked_is_not(several, options):
    def train():
        checks = Checks(state_every=options.get("state_every", 1))
        own = Strategy(distopt.get_strategy().communicator, broadcast=options.get("broadcast", True), checks=checks)
        with own.scope():
            chosen, optimizer = variables(), Adam(0.1)
            steps(optimizer, chosen, 1)
            chosen[0].storage.array[...] = index()
            steps(optimizer, chosen, 3)
            return int(optimizer.iterations.numpy())

    assert several(train) == [4] * several.count


def test_replicas_that_check_differently_do_not_agree(several):
    def train():
        def step():
            steps(SGD(0.1), variables(), 1)

        return caught(functools.partial(checked, step, state_every=2 + (index() == 1)))

    for failure in several(train):
        assert failure.kind is CollectiveMismatchError
        assert "checks (DISTOPT_CHECKS): replica 1: Checks(state_every=3" in failure.text


# Shared


def owned_elements(variable):
    """Of each replica the first element that it owns of a variable, or -1."""
    first = next(
        iter(variable.storage.buffer.parts(variable.storage.start, variable.size)), (variable.storage.start - 1,)
    )[0]
    return (distopt.all_gather(first) - variable.storage.start).tolist()


@pytest.mark.parametrize("what", ["parameter", "slot"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_write_to_shared_memory_between_steps_is_found(several, family, what):
    owner = several.count - 1

    def train():
        w, v, optimizer = (
            Variable(np.zeros(3, "f4"), name="w"),
            Variable(np.zeros(LARGE, "f4"), name="v"),
            FAMILIES[family](),
        )
        steps(optimizer, [w, v], 3)
        changed = v if what == "parameter" else slot_of(optimizer, v)
        place = owned_elements(v)[owner]
        if index() == 0:  # not by the owner itself
            changed.storage.array.view(np.uint8)[4 * place] ^= 1
        distopt.barrier()
        before = distopt.digest([w, v])
        failure = caught(steps, optimizer, [w, v], 1)
        return failure, distopt.digest([w, v]) == before, int(optimizer.iterations.numpy()), changed.name, place

    failures, kept, counts, names, places = zip(*several(lambda: checked(train, update="shared")), strict=True)
    assert places[0] >= 0
    text = assert_found(failures, 3, names[0])
    assert f"{names[0]!r} (replica {owner} owns the element)" in text
    assert all(kept)
    assert set(counts) == {3}


def test_shared_memory_is_checked_every_so_many_steps(several):
    def train(changed_after):
        v, optimizer = Variable(np.zeros(LARGE, "f4"), name="v"), SGD(0.1)
        steps(optimizer, [v], changed_after)
        if index() == 0:
            v.storage.array[100] += 1
        distopt.barrier()
        return caught(steps, optimizer, [v], 8 - changed_after)

    # What is written in the one interval that is watched.
    assert_found(several(lambda: checked(train, 4, update="shared", state_every=4)), 4, "v")


@pytest.mark.parametrize("owned", [True, False])
def test_the_parameters_of_nodes_are_compared(placed, owned):
    def train():
        v, w, optimizer = Variable(np.zeros(LARGE, "f4"), name="v"), Variable(np.zeros(5, "f4"), name="w"), Adam(0.1)
        steps(optimizer, [v, w], 3)
        nodes = distopt.get_strategy().communicator.nodes
        last = max(nodes)
        first = nodes.index(last)
        owners = [r for r, node in enumerate(nodes) if (node == last) == owned]
        place = owned_elements(v)[owners[0]]
        if index() == first:
            v.storage.array[place] = 5.0
        distopt.barrier()
        return caught(steps, optimizer, [v, w], 1), nodes, owners[0]

    outcomes = placed(lambda: checked(train, update="shared"))
    text = assert_found([failure for failure, *_ in outcomes], 3, "v")
    _, nodes, owner = outcomes[0]
    if owned:
        assert f"'v' (replica {owner} owns the element)" in text
    else:
        here = [str(r) for r, node in enumerate(nodes) if node == max(nodes)]
        assert f"replica{'s' * (len(here) > 1)} {', '.join(here)}: " in text
        assert "in 1 of 2 variables" in text


def test_nodes_are_resynchronised(placed):
    def train(changes):
        v, optimizer = Variable(np.zeros(LARGE, "f4"), name="v"), SGD(0.1)
        steps(optimizer, [v], 3)
        nodes = distopt.get_strategy().communicator.nodes
        place = owned_elements(v)[nodes.index(0)]  # the other nodes do not own it
        if changes and nodes[index()] == max(nodes) and index() == nodes.index(max(nodes)):
            v.storage.array[place] = 5.0
        distopt.barrier()
        steps(optimizer, [v], 3)
        return distopt.digest([v])

    results, messages = warned(placed, lambda: checked(train, True, update="shared", on_divergence="resync"))
    assert len(messages) == 1
    assert len(set(results)) == 1
    assert results == placed(lambda: checked(train, False, update="shared"))


@pytest.mark.parametrize("write", ["assign", "set_weights", "broadcast"])
def test_what_replicas_write_together_is_no_divergence(placed, write):
    def train():
        v, optimizer = Variable(np.zeros(LARGE, "f4"), name="v"), Adam(0.1)
        steps(optimizer, [v], 2)
        if write == "assign":
            v.assign(np.ones(LARGE))
        elif write == "set_weights":
            optimizer.set_weights([w * 2 for w in optimizer.get_weights()])
        else:
            distopt.broadcast([v], source=placed.count - 1)
        steps(optimizer, [v], 2)
        return digest(optimizer, [v])

    outcomes = [placed(lambda update=update: checked(train, update=update)) for update in ("shared", "replicated")]
    assert outcomes[0] == outcomes[1]
    assert len(set(outcomes[0])) == 1
