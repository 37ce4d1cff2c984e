"""Weights alone, values of one's own, and the best checkpoint."""

import random

import ml_dtypes
import numpy as np
import pytest
from unit.checkpoint.saving import saved, step, steps_of

import distopt
from distopt import Variable, simulate
from distopt.checkpoint import Checkpointer
from distopt.errors import CheckpointError, InvalidArgumentError
from distopt.optimizers import Adam


@pytest.mark.parametrize("readers", [1, 2])
def test_a_checkpoints_weights_alone_can_be_loaded(tmp_path, readers):
    def train():
        w, head = Variable([5.0], name="w"), Variable([2.0], name="head")
        optimizer, generator = Adam(0.5), random.Random(distopt.replica_index())
        step(optimizer, w, head)
        saved(tmp_path, optimizer=optimizer, random=[generator], extra={"epoch": 1})
        return w.numpy().tolist()

    (trained, *_) = simulate(2, train)

    def load():
        w = Variable([0.0], name="w")
        checkpointer = Checkpointer(tmp_path, variables=[w])
        assert checkpointer.restore() == 1
        return w.numpy().tolist()

    assert simulate(readers, load) == [trained] * readers
    with pytest.raises(CheckpointError, match="variables/x: not in the checkpoint"):
        Checkpointer(tmp_path, variables=[Variable([0.0], name="x")]).restore()
    w = Variable([0.0], name="w")
    checkpointer = Checkpointer(tmp_path, variables=[w])
    checkpointer.restore()
    with pytest.raises(CheckpointError, match="take another directory"):
        checkpointer.save()  # the run of the optimizer could not go on from there


VALUES = {
    "number": 3, "rate": 0.1, "worst": float("-inf"), "name": "résumé", "flag": True, "nothing": None,
    "list": [1, [2.5, "x"], {}], "dict": {"dict": {"array": 1}, "float": "x"}, "scalar": np.float32(0.1),
}  # fmt: skip


def test_values_of_ones_own(tmp_path):
    v, array = Variable([0.0], name="v"), np.random.default_rng(0).normal(size=(3, 2)).astype(ml_dtypes.bfloat16)
    saved(tmp_path, variables=[v], extra=VALUES | {"nested": {"arrays": [array, np.arange(3)]}})
    extra = {"number": 0, "new": "stays"}
    Checkpointer(tmp_path, variables=[v], extra=extra).restore()
    nested = extra.pop("nested")
    assert extra == VALUES | {"new": "stays"}
    assert extra["scalar"].dtype == np.float32
    assert nested["arrays"][0].tobytes() == array.tobytes()
    assert nested["arrays"][0].dtype == array.dtype
    nested["arrays"][1][0] = 7  # may be written to


def test_values_are_those_at_the_time_of_saving(tmp_path):
    v, extra = Variable([0.0], name="v"), {"history": []}
    with Checkpointer(tmp_path, variables=[v], extra=extra) as checkpointer:
        for k in range(3):
            extra["history"].append(k)
            checkpointer.save()
    extra.clear()
    checkpointer.restore()
    assert extra == {"history": [0, 1, 2]}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([1], "expected a dict"),
        ({1: 2}, "strings as keys"),
        ({"a": [object()]}, r"extra\['a'\]\[0\]"),
        ({"a": (1, 2)}, "a tuple"),
        ({"a": Variable([1.0])}, "belongs into variables="),
        ({"a": np.array(["x"])}, "a ndarray"),
    ],
)
def test_other_values_are_refused(tmp_path, extra, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Checkpointer(tmp_path, variables=[Variable([0.0])], extra=extra)


@pytest.mark.parametrize(("which", "best"), [("min", 2), ("max", 3)])
def test_the_best_stays(tmp_path, which, best):
    v, extra = Variable([0.0], name="v"), {}
    with Checkpointer(tmp_path, variables=[v], keep=1, extra=extra, keep_best=("loss", which)) as checkpointer:
        for k, loss in enumerate([2.0, np.float32(1.0), 9, float("nan"), 5.0]):
            v.assign([k + 1])
            extra["loss"] = loss
            checkpointer.save()
    assert steps_of(tmp_path) == [f"step-{best:08}", "step-00000005"]
    reader = Checkpointer(tmp_path, variables=[v], keep_best=("loss", which), extra={})
    assert reader.restore(best=True) == best
    assert v.numpy() == best
    assert reader.restore() == 5


def test_the_best_needs_a_number(tmp_path):
    v = Variable([0.0], name="v")
    for wrong in ("loss", ("loss", "least"), (1, "min")):
        with pytest.raises(InvalidArgumentError, match=r"keep_best=.*expected the name"):
            Checkpointer(tmp_path, variables=[v], keep_best=wrong)
    for extra in ({}, {"loss": "low"}, {"loss": [1.0, 2.0]}, {"loss": np.ones(2)}):
        with pytest.raises(InvalidArgumentError, match="expected a number"):
            Checkpointer(tmp_path, variables=[v], extra=extra, keep_best=("loss", "min")).save()
    with pytest.raises(InvalidArgumentError, match="which is best"):
        Checkpointer(tmp_path, variables=[v]).restore(best=True)
