"""Options of a strategy that differ between replicas: the first header says which one, and what each has."""

import numpy as np
import pytest
from parallel.caught import caught, is_odd

import distopt
from distopt import Checks, Deadlines, Strategy, Variable
from distopt.errors import CollectiveMismatchError
from distopt.optimizers import SGD

DIFFERENT = {
    "update": ("shared", ("shared", "replicated")),
    "broadcast": (False, ("False", "True")),
    "checks": (Checks(state_every=7), ("state_every=7", "state_every=50")),
    "deadlines": (Deadlines(warn=3), ("warn=3", "warn=10.0")),
    "receipt": ("receipts", ("one for each replica", "none")),
}


@pytest.mark.parametrize("option", DIFFERENT)
def test_an_option_that_differs_is_named_with_both_values(several, option, tmp_path):
    value, shown = DIFFERENT[option]
    value = tmp_path / value if option == "receipt" else value

    def step():
        v = Variable(np.full(3, 1.0 + distopt.replica_index(), np.float32))
        SGD(1.0).apply_gradients([(np.ones(3, np.float32), v)])

    def act():
        with Strategy(distopt.get_strategy().communicator, **({option: value} if is_odd() else {})).scope():
            failures = [caught(step), caught(distopt.barrier)]  # it is no less wrong the second time
        distopt.barrier()  # in the scope of all
        return failures

    for failures in several(act):
        for failure in failures:
            assert failure.kind is CollectiveMismatchError
            lines = [line.split(":") for line in failure.text.splitlines() if line.startswith("  ")]
            assert {label.split()[0] for label, *_ in lines} == {option, "called"}
            (odd,) = [text for label, who, *text in lines if "called" not in label and who == " replica 1"]
            (usual,) = [text for label, who, *text in lines if "called" not in label and who != " replica 1"]
            assert shown[0] in odd[0]
            assert shown[1] in usual[0]
