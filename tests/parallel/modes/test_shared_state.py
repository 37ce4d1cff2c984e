"""Shared parameters keep their constraints; their state goes to the other mode, to copies and to other replicas."""

import copy
import pickle

import numpy as np
import pytest
from parallel.modes.sharing import index, shared, steps, variables

import distopt
from distopt import Variable
from distopt.constraints import NonNeg
from distopt.optimizers import SGD, Adam, legacy

FAMILIES = {
    "Adam": lambda: Adam(0.1, global_clipnorm=3.0),
    "legacy momentum": lambda: legacy.SGD(0.1, momentum=0.9),
    "legacy Adam": lambda: legacy.Adam(0.1),
}


# Constraints, state


@pytest.mark.parametrize("family", [SGD, legacy.SGD])
def test_elementwise_constraints_are_kept(placed, family):
    def step():
        chosen = [Variable(np.full(n, 0.5), dtype="f4", constraint=NonNeg(), name=f"n{n}") for n in (9, 30_000)]
        steps(family(0.5), chosen, 3)
        return [v.numpy() for v in chosen]

    expected = placed(shared, step)
    for chosen, replicated in zip(expected, placed(step), strict=True):
        for value, same in zip(chosen, replicated, strict=True):
            np.testing.assert_array_equal(value, same)
            assert value.min() == 0.0


def save(make):
    chosen, optimizer = variables(), make()
    steps(optimizer, chosen, 2)
    return [v.numpy() for v in chosen], optimizer.get_weights()


def resume(make, parameters, weights):
    chosen, optimizer = variables(), make()
    for variable, value in zip(chosen, parameters, strict=True):
        variable.assign(value)
    if isinstance(optimizer, distopt.optimizers.Optimizer):
        optimizer.build(chosen)
    else:  # the first step makes the slots; what it does is overwritten
        optimizer.apply_gradients([(np.zeros(v.shape, v.dtype), v) for v in chosen])
        for variable, value in zip(chosen, parameters, strict=True):
            variable.assign(value)
    optimizer.set_weights(weights)
    restored = distopt.digest(optimizer.get_weights())
    steps(optimizer, chosen, 2, first=2)
    return restored, distopt.digest(chosen), distopt.digest(optimizer.get_weights())


@pytest.mark.parametrize("make", [FAMILIES["Adam"], FAMILIES["legacy momentum"]], ids=["Keras 3", "legacy"])
@pytest.mark.parametrize("modes", [("shared", "replicated"), ("replicated", "shared")])
def test_state_is_carried_to_the_other_mode_and_to_other_replicas(placed, make, modes):
    saved = placed(lambda: shared(save, make, update=modes[0]))
    assert len({distopt.digest([*parameters, *weights]) for parameters, weights in saved}) == 1
    parameters, weights = saved[0]
    resumed = placed(lambda: shared(resume, make, parameters, weights, update=modes[1]))
    uninterrupted = placed(lambda: shared(go_on, make))
    assert {outcome[1:] for outcome in resumed} == set(uninterrupted)
    if index() == 0:  # the other number of replicas
        two = distopt.simulate(2, lambda: shared(resume, make, parameters, weights, update=modes[1]))
        assert two == distopt.simulate(2, resume, make, parameters, weights)
        assert two[0][0] == resumed[0][0] == distopt.digest(weights)


def go_on(make, duplicate=lambda both: both):
    chosen, optimizer = variables(), make()
    steps(optimizer, chosen, 2)
    chosen, optimizer = duplicate((chosen, optimizer))
    steps(optimizer, chosen, 2, first=2)
    return distopt.digest(chosen), distopt.digest(optimizer.get_weights())


DUPLICATES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda both: pickle.loads(pickle.dumps(both)),
    "deepcopy of the optimizer": lambda both: (both[0], copy.deepcopy(both[1])),
}


@pytest.mark.parametrize(("name", "duplicate"), list(zip(FAMILIES, DUPLICATES.values(), strict=True)), ids=DUPLICATES)
def test_a_copy_goes_on_with_the_same_bits(several, name, duplicate):
    make = FAMILIES[name]
    assert len(set(several(shared, go_on, make, duplicate) + several(go_on, make))) == 1


def test_a_copy_has_the_slots_of_all_nodes(placed):
    make = FAMILIES["Adam"]
    assert len(set(placed(shared, go_on, make, copy.deepcopy) + placed(go_on, make))) == 1


def test_two_optimizers_take_turns_on_shared_variables(placed):
    def take_turns():
        chosen, first, second = variables(), SGD(0.1, momentum=0.9), legacy.Adam(0.1)
        for k in range(4):
            optimizer = first if k % 2 == 0 else second
            steps(optimizer, chosen if k < 2 else chosen[1:], 1, first=k)
        return [distopt.digest(each) for each in (chosen, first.get_weights(), second.get_weights())]

    outcomes = placed(shared, take_turns) + placed(take_turns)
    assert outcomes == outcomes[:1] * len(outcomes)


def test_a_buffer_of_empty_variables_is_shared(several):
    def step():
        v, w = Variable(np.zeros((0, 4)), dtype="float64"), Variable(np.zeros(3), dtype="float32")
        steps(SGD(0.1), [v, w], 2)
        return distopt.digest([v, w])

    assert len(set(several(shared, step) + several(step))) == 1
