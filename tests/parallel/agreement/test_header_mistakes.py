"""A mistake that one replica makes before the header is told to the others."""

import numpy as np
import pytest
from parallel.caught import ODD, caught, is_odd

import distopt
from distopt import Variable
from distopt.errors import (
    CollectiveMismatchError,
    InvalidArgumentError,
    ReplicaFailedError,
)
from distopt.optimizers import SGD, legacy

MISTAKES = {
    "shape": lambda a: [(np.ones(3), a)],
    "no pairs": lambda a: [np.ones(2)],
    "text": lambda a: [("one", a)],
    "nobody's": lambda a: [(np.ones(2), np.zeros(2))],
}


@pytest.mark.parametrize("family", [SGD, legacy.SGD])
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_of_one_replica_is_told_to_the_others(several, family, mistake):
    def act():
        a, optimizer = Variable(np.zeros(2)), family(learning_rate=0.5)
        good = [(np.ones(2), a)]
        optimizer.apply_gradients(good)
        failure = caught(optimizer.apply_gradients, mistake(a) if is_odd() else good)
        state = a.numpy().tolist(), int(optimizer.iterations)
        optimizer.apply_gradients(good)
        return failure, state, int(optimizer.iterations)

    outcomes = several(act)
    own = outcomes[ODD][0].text
    for replica, (failure, state, steps) in enumerate(outcomes):
        assert failure.kind is (InvalidArgumentError if replica == ODD else ReplicaFailedError)
        assert own in failure.text
        assert replica == ODD or f"replica {ODD} failed" in failure.text
        assert (state, steps) == (([-0.5 * several.count] * 2, 1), 2)


def _pushed(optimizer, a, variable):
    optimizer.begin_step([a])
    optimizer.push(variable, np.ones(2))
    optimizer.end_step()


NO_VARIABLES = {
    "begin_step with text": (lambda optimizer, a: optimizer.begin_step("abc"), "received 'a' as a variable"),
    "begin_step with numbers": (lambda optimizer, a: optimizer.begin_step([1, 2]), "received 1 as a variable"),
    "begin_step with one": (lambda optimizer, a: optimizer.begin_step(a), "begin_step received <Variable 'a'"),
    "begin_step with a number": (
        lambda optimizer, a: optimizer.begin_step(5),
        "begin_step received 5: expected a list",
    ),
    "push with a number": (lambda optimizer, a: _pushed(optimizer, a, 3), "received 3 as a variable"),
    "push with an array": (lambda optimizer, a: _pushed(optimizer, a, a.numpy()), "as a variable: expected"),
}


@pytest.mark.parametrize("family", [SGD, legacy.SGD])
@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("mistake", NO_VARIABLES)
def test_what_is_no_variable_on_one_replica_is_told_to_the_others(several, family, mistake, is_new):
    call, says = NO_VARIABLES[mistake]

    def act():
        a, optimizer = Variable(np.zeros(2), name="a"), family(learning_rate=0.5)
        if not is_new:
            _pushed(optimizer, a, a)
        failure = caught(call, optimizer, a) if is_odd() else caught(_pushed, optimizer, a, a)
        _pushed(optimizer, a, a)
        return failure, int(optimizer.iterations)

    for replica, (failure, steps) in enumerate(several(act)):
        assert failure.kind is (InvalidArgumentError if replica == ODD else ReplicaFailedError)
        assert says in failure.text
        assert steps == 2 - is_new


def test_a_build_with_what_is_no_variable_is_told_to_the_others(several):
    def act():
        a, optimizer = Variable(np.zeros(2)), SGD()
        failure = caught(optimizer.build, "abc" if is_odd() else [a])
        optimizer.build([a])
        return failure

    for replica, failure in enumerate(several(act)):
        assert failure.kind is (InvalidArgumentError if replica == ODD else ReplicaFailedError)
        assert "received 'a' as a variable" in failure.text


def test_an_error_holds_the_index_of_the_replica_that_failed(several):
    def act():
        with pytest.raises((InvalidArgumentError, ReplicaFailedError)) as raised:
            distopt.all_reduce(object() if is_odd() else 1.0)
        return getattr(raised.value, "replica_index", None)

    assert several(act) == [None if r == ODD else ODD for r in range(several.count)]


class UnspeakableError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


ODD_TEXTS = {
    "half a character": (LookupError("no file \udc80"), "LookupError: no file \udc80"),
    "no text": (UnspeakableError(), "UnspeakableError (its text can't be shown: RuntimeError)"),
}


@pytest.mark.parametrize("kind", ODD_TEXTS)
def test_whatever_the_text_of_an_error_all_replicas_go_on(several, kind):
    error, told = ODD_TEXTS[kind]

    def fail():
        raise error
        yield

    def act():
        a, optimizer = Variable(np.zeros(2)), SGD(0.5)
        good = [(np.ones(2), a)]
        optimizer.apply_gradients(good)
        failure = None
        try:
            optimizer.apply_gradients(fail() if is_odd() else good)
        except (type(error), ReplicaFailedError) as caught_error:
            failure = caught_error
        optimizer.apply_gradients(good)
        return type(failure), "" if is_odd() else str(failure), a.numpy().tolist()

    for replica, (kind_of_failure, text, values) in enumerate(several(act)):
        assert kind_of_failure is (type(error) if replica == ODD else ReplicaFailedError)
        assert replica == ODD or text.endswith(told)
        assert values == [-0.5 * several.count * 2] * 2


def test_names_of_half_characters_and_separators_are_compared(several):
    def act():
        a = Variable(np.zeros(2), name="w\udc80\0\1" if is_odd() else "w\udc81")
        return caught(SGD(0.5).apply_gradients, [(np.ones(2), a)])

    for failure in several(act):
        assert failure.kind is CollectiveMismatchError
        assert "w\udc81" in failure.text
