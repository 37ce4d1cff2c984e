"""Replicas that call different things: the same error on all of them, with a table of who called what, and where."""

from types import SimpleNamespace

import numpy as np
import pytest
from parallel.caught import caught, warned

import distopt
from distopt import Strategy, Variable
from distopt.checkpoint import Checkpointer
from distopt.data import batches, join
from distopt.distribute import get_strategy
from distopt.errors import CollectiveMismatchError
from distopt.optimizers import SGD, Adam, legacy

ODD = 1
"""The replica that does something else than the others."""


def fixtures():
    """Variables, and optimizers that have done a step."""
    a, b, ones = Variable(np.zeros(2), name="a"), Variable(np.zeros(2), name="b"), np.ones(2)
    s = SimpleNamespace(a=a, b=b, pairs=[(ones, a), (ones, b)], momentum=SGD(1.0, momentum=0.5))
    s.sgd, s.twin, s.adam, s.legacy = SGD(1.0), SGD(1.0), Adam(1.0), legacy.SGD(1.0)
    for optimizer in (s.sgd, s.twin, s.adam, s.legacy, s.momentum):
        optimizer.apply_gradients(s.pairs)
    s.new = SGD(1.0, momentum=0.5)
    s.checkpointer = Checkpointer("never-written", optimizer=s.sgd)
    return s


# What the odd replica does, on a line of its own, and what the others do, on another; what the table says of each.
COLLECTIVES = {
    "call": (
        lambda s: distopt.barrier(),
        lambda s: distopt.all_reduce(1.0),
        "call", "barrier", "all_reduce(op='sum')",
    ),
    "op": (
        lambda s: distopt.all_reduce(1.0, "max"),
        lambda s: distopt.all_reduce(1.0),
        "call", "all_reduce(op='max')", "all_reduce(op='sum')",
    ),
    "shape": (
        lambda s: distopt.all_reduce(np.zeros((2, 2))),
        lambda s: distopt.all_reduce(np.zeros(4)),
        "shape", "(2, 2)", "(4,)",
    ),
    "dtype": (
        lambda s: distopt.all_gather(np.zeros(4, "f4")),
        lambda s: distopt.all_gather(np.zeros(4)),
        "dtype", "float32", "float64",
    ),
    "source": (
        lambda s: distopt.broadcast(1.0, source=1),
        lambda s: distopt.broadcast(1.0),
        "call", "broadcast(source=1)", "broadcast(source=0)",
    ),
    "one barrier more": (
        lambda s: (distopt.barrier(), distopt.barrier()),
        lambda s: (distopt.barrier(), distopt.all_reduce(1.0)),
        "call", "barrier", "all_reduce(op='sum')",
    ),
    "location": (
        lambda s: get_strategy().location,
        lambda s: distopt.barrier(),
        "call", "location", "barrier",
    ),
}  # fmt: skip
STEPS = {
    "a collective for a step": (
        lambda s: distopt.barrier(),
        lambda s: s.sgd.apply_gradients(s.pairs),
        "call", "barrier", "apply_gradients of SGD",
    ),
    "one step more": (
        lambda s: (s.sgd.apply_gradients(s.pairs), s.sgd.apply_gradients(s.pairs)),
        lambda s: (s.sgd.apply_gradients(s.pairs), distopt.barrier()),
        "call", "apply_gradients of SGD", "barrier",
    ),
    "a class": (
        lambda s: s.adam.apply_gradients(s.pairs),
        lambda s: s.sgd.apply_gradients(s.pairs),
        "call", "apply_gradients of Adam", "apply_gradients of SGD",
    ),
    "another optimizer of the class": (
        lambda s: s.twin.apply_gradients(s.pairs),
        lambda s: s.sgd.apply_gradients(s.pairs),
        None, "", "",
    ),
    "a first step": (
        lambda s: s.new.apply_gradients(s.pairs),
        lambda s: s.momentum.apply_gradients(s.pairs),
        "call", "first step", "apply_gradients of SGD",
    ),
    "the order of variables": (
        lambda s: SGD(1.0).apply_gradients(s.pairs[::-1]),
        lambda s: SGD(1.0).apply_gradients(s.pairs),
        "variables", "b: float64[2], a: float64[2]", "a: float64[2], b: float64[2]",
    ),
    "a hyperparameter": (
        lambda s: SGD(0.25).apply_gradients(s.pairs),
        lambda s: SGD(0.5).apply_gradients(s.pairs),
        "learning_rate", "0.25", "0.5",
    ),
    "an option": (
        lambda s: legacy.SGD(1.0, clipnorm=1.0).apply_gradients(s.pairs),
        lambda s: legacy.SGD(1.0).apply_gradients(s.pairs),
        "clipnorm", "1.0", "-",
    ),
    "items": (
        lambda s: s.legacy.apply_gradients(s.pairs, items=3),
        lambda s: s.legacy.apply_gradients(s.pairs),
        "items=", "given", "not given",
    ),
    "streamed": (
        lambda s: s.sgd.begin_step([s.a, s.b]),
        lambda s: s.sgd.apply_gradients(s.pairs),
        "call", "begin_step of SGD", "apply_gradients of SGD",
    ),
    "a step that is not ended": (
        lambda s: (s.sgd.begin_step([s.a, s.b]), s.sgd.push(*s.pairs[0][::-1]), distopt.barrier()),
        lambda s: (s.sgd.begin_step([s.a, s.b]), s.sgd.push(*s.pairs[0][::-1]), s.sgd.end_step()),
        "call", "barrier", "end_step of SGD",
    ),
    "building": (
        lambda s: s.new.build([s.a, s.b]),
        lambda s: distopt.barrier(),
        "call", "initial values of SGD", "barrier",
    ),
    "variables known to one": (
        lambda s: s.new.apply_gradients(s.pairs[:1]),
        lambda s: s.momentum.apply_gradients(s.pairs[:1]),
        "call", "first step over these variables of SGD", "apply_gradients of SGD",
    ),
    "saving": (
        lambda s: s.checkpointer.save(),
        lambda s: s.sgd.apply_gradients(s.pairs),
        "call", "save", "apply_gradients of SGD",
    ),
    "join for a step": (
        lambda s: list(join([np.ones(2)])),
        lambda s: s.sgd.apply_gradients(s.pairs),
        "call", "data.join", "apply_gradients of SGD",
    ),
    "join for batches": (
        lambda s: list(join([np.ones(2)])),
        lambda s: list(batches(np.ones(2), global_batch_size=1)),
        "call", "data.join", "data.batches",
    ),
    "batches for a collective": (
        lambda s: list(batches(np.ones(2), global_batch_size=1)),
        lambda s: distopt.all_gather(1),
        "call", "data.batches", "all_gather",
    ),
}  # fmt: skip
SHARED = {
    "assign": (
        lambda s: s.a.assign([3.0, 3.0]),
        lambda s: s.sgd.apply_gradients(s.pairs),
        "call", "assignment to 'a'", "apply_gradients of SGD",
    ),
    "the value": (
        lambda s: s.a.assign([3.0, 3.0]),
        lambda s: s.a.assign([4.0, 4.0]),
        "value (digest)", "", "",
    ),
    "the variable": (
        lambda s: s.a.assign([3.0, 3.0]),
        lambda s: s.b.assign([3.0, 3.0]),
        "call", "assignment to 'a'", "assignment to 'b'",
    ),
    "reading": (
        lambda s: s.momentum.get_weights(),
        lambda s: distopt.barrier(),
        "call", "get_weights of SGD", "barrier",
    ),
    "writing": (
        lambda s: s.momentum.set_weights([1, 1.0, np.zeros(2), np.zeros(2)]),
        lambda s: s.momentum.get_weights(),
        "call", "set_weights of SGD", "get_weights of SGD",
    ),
}  # fmt: skip
CASES = {
    f"{update}: {name}": (update, *case)
    for update, cases in (("replicated", COLLECTIVES | STEPS), ("shared", STEPS | SHARED))
    for name, case in cases.items()
}


@pytest.mark.parametrize(("update", "odd", "others", "label", "odd_text", "text"), CASES.values(), ids=CASES)
def test_every_replica_is_told_who_called_what_and_where(several, update, odd, others, label, odd_text, text):
    def run():
        with Strategy(get_strategy().communicator, update=update).scope():
            s = fixtures()
            failure = caught(odd if distopt.replica_index() == ODD else others, s)
            for variable in (s.a, s.b):
                variable.assign([0.0, 0.0])
            for optimizer in (s.twin, SGD(1.0, momentum=0.5)):
                optimizer.apply_gradients(s.pairs)
            return failure, s.a.numpy().tolist()

    outcomes = several(run)
    failure = outcomes[0][0]
    assert failure.kind is CollectiveMismatchError
    assert outcomes == [(failure, [-2.0 * several.count] * 2)] * several.count
    assert_table(failure.text, several.count, label, (odd, odd_text), (others, text))


def assert_table(text, count, label, odd, others):
    """The table says what the odd replica has under a label and what all others have, and where each of them is."""
    rest = [str(r) for r in range(count) if r != ODD]
    who = {"odd": f"replica {ODD}: ", "others": f"replica{'s' * (len(rest) > 1)} {', '.join(rest)}: "}
    lines = text.splitlines()
    for key, (call, said) in {"odd": odd, "others": others}.items():
        place = f"test_mismatch.py:{call.__code__.co_firstlineno} in <lambda>"
        if label == "call":
            (line,) = [line for line in lines if line.startswith(f"  call: {who[key]}")]
            assert said in line
            assert line.endswith(place)
            continue
        assert f"  called at: {who[key]}{place}" in lines
        if label is not None:
            (line,) = [line for line in lines if line.startswith(f"  {label}: {who[key]}")]
            assert said in line


def evaluate():
    return distopt.all_reduce(1.0)


def test_the_place_is_that_of_the_innermost_function_of_the_user(several):
    def run():
        return caught(distopt.barrier if distopt.replica_index() == ODD else evaluate)

    line = evaluate.__code__.co_firstlineno + 1
    for failure in several(run):
        assert f"all_reduce(op='sum') at test_mismatch.py:{line} in evaluate" in failure.text
        assert f"  call: replica {ODD}: barrier at caught.py:" in failure.text


def test_an_optimizer_that_could_not_be_built_can_be_built_again(several):
    def run():
        a, optimizer = Variable(np.full(2, float(distopt.replica_index())), name="a"), SGD(1.0, momentum=0.5)
        failure = caught(lambda: distopt.barrier() if distopt.replica_index() == ODD else optimizer.build([a]))
        optimizer.apply_gradients([(np.ones(2), a)])
        return failure.kind, a.numpy().tolist()

    results, warnings = warned(several, run)
    assert results == [(CollectiveMismatchError, [-1.0 * several.count] * 2)] * several.count
    assert len(warnings) == 1


@pytest.mark.parametrize("make", [SGD, legacy.SGD], ids=["keras3", "legacy"])
@pytest.mark.parametrize("way", ["step", "streamed"])
def test_variables_of_one_name_and_shape_in_another_order_are_told(several, make, way):
    def run():
        first, second = (Variable(np.zeros(2), name="w") for _ in range(2))
        pairs = [(np.full(2, 1.0), first), (np.full(2, 10.0), second)]
        optimizer = make(1.0)
        turned = pairs[::-1] if distopt.replica_index() == ODD else pairs
        begin = optimizer.begin_step if way == "streamed" else optimizer.apply_gradients
        failure = caught(lambda: begin([v for _, v in turned] if way == "streamed" else turned))
        optimizer.apply_gradients(pairs)
        return failure.kind, failure.text, first.numpy().tolist(), second.numpy().tolist()

    for kind, text, first, second in several(run):
        assert kind is CollectiveMismatchError
        assert "w: float64[2] (made as number 2 of 2), w: float64[2] (made as number 1 of 2)" in text
        assert (first, second) == ([-1.0 * several.count] * 2, [-10.0 * several.count] * 2)


def test_variables_of_one_name_and_shape_in_one_order_are_stepped(several):
    def run():
        first, second = (Variable(np.zeros(2), name="w") for _ in range(2))
        sgd = SGD(1.0)
        for pairs in ([(np.ones(2), first), (np.zeros(2), second)], [(np.zeros(2), second), (np.ones(2), first)]):
            sgd.apply_gradients(pairs)
        return first.numpy().tolist(), second.numpy().tolist()

    assert several(run) == [([-2.0 * several.count] * 2, [0.0, 0.0])] * several.count
