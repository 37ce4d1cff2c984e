"""``distopt diff``: the first step, variable and replica at which two runs part."""

from pathlib import Path

import numpy as np
import pytest
from support import DISTOPT, run

import distopt
from distopt.distribute.simulation import run_on
from distopt.distribute.transports.threads import Hub
from distopt.telemetry import Receipt
from distopt.telemetry.receipt_diff import replicas_that_part, runs_that_part
from distopt.telemetry.receipt_reader import read_run

NAMES = ["W1", "b"]


class Trainer:
    """Writes the receipt of a run; ``change`` gets each replica's record of each step, and may falsify it."""

    def __init__(self, directory: Path, replicas: int = 3, steps: int = 5, change=lambda step, replica, record: None):
        for replica in range(replicas):
            receipt = Receipt(directory, replica, replicas)
            for step in range(steps):
                record = {
                    "items": 4.0,
                    "names": NAMES,
                    "gradients": [np.full((2, 3), 10.0 * replica + step, "float32"), np.full(3, step, "float32")],
                    "total_items": 12.0,
                    "norm": 0.1 * step,
                    "parameters": [np.full((2, 3), step, "float32"), np.full(3, step, "float32")],
                }
                change(step, replica, record)
                receipt.note_gradients(step, record["items"], record["names"], record["gradients"])
                receipt.note_update(step, record["total_items"], record["norm"], record["names"], record["parameters"])
        self.run = read_run(directory)


def at(step, replica, **changes):
    """From this step on, on this replica (None: on all), other values."""

    def change(now, index, record):
        if now >= step and replica in (index, None):
            for key, value in changes.items():
                record[key] = value(record[key]) if callable(value) else value

    return change


def flipped(which, factor=1):
    def flip(arrays):
        arrays = [array.copy() for array in arrays]
        arrays[which].reshape(-1).view(np.uint32)[-1] ^= factor
        return arrays

    return flip


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            at(3, 2, gradients=flipped(0), parameters=flipped(0)),
            "step 3: the local gradient of 'W1' on replica 2 differs (everything before is equal)",
        ),
        (
            at(3, None, gradients=flipped(1)),
            "step 3: the local gradient of 'b' on replica 0 differs, as do gradients on 1, 2 (everything before is "
            "equal)",
        ),
        (
            at(2, 1, gradients=lambda g: [g[0], None]),
            "step 2: the local gradient of 'b' on replica 1 differs (everything before is equal)",
        ),
        (
            at(0, 1, gradients=lambda g: [-g[0], -g[1] - 1]),
            "step 0: the local gradient of 'W1' (and of 1 more) on replica 1 differs (it is the first: initial values, "
            "data or code differ)",
        ),
        (
            at(4, 1, parameters=flipped(1)),
            "step 4: gradients are equal, but parameter 'b' after the update differs on replica 1 (everything before "
            "is equal)",
        ),
        (
            at(1, 2, items=3.0, total_items=11.0),
            "step 1: replica 2 has 4.0 items in A and 3.0 in B (everything before is equal)",
        ),
        (
            at(1, None, total_items=11.0),
            "step 1: local gradients are equal, but the items of all replicas on replica 0 is 12.0 in A and 11.0 in B "
            "(everything before is equal)",
        ),
        (
            at(2, None, norm=np.nextafter(0.2, 1), parameters=flipped(0)),
            "step 2: local gradients are equal, but the norm of the summed gradients on replica 0 is 0.2 in A and "
            "0.20000000000000004 in B (everything before is equal)",
        ),
        (
            at(2, None, names=["W1", "c"]),
            "step 2: the variables differ: 'b' float32[3] in A, 'c' float32[3] in B (everything before is equal)",
        ),
        (
            at(2, None, names=["W1"], gradients=lambda g: g[:1], parameters=lambda p: p[:1]),
            "step 2: the variables differ: 'b' float32[3] in A, no more in B (everything before is equal)",
        ),
    ],
)  # fmt: skip
def test_the_place_where_two_runs_part(tmp_path, monkeypatch, change, sentence):
    monkeypatch.chdir(tmp_path)
    a, b = Trainer(Path("A")).run, Trainer(Path("B"), change=change).run
    assert runs_that_part(a, b) == sentence
    assert runs_that_part(b, a) != ""
    assert runs_that_part(a, a) == ""


def test_nan_equals_nan(tmp_path):
    a, b = (Trainer(tmp_path / name, change=at(1, None, norm=float("nan"))).run for name in "ab")
    assert runs_that_part(a, b) == ""


def test_one_run_is_shorter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = Trainer(Path("A"), steps=5).run, Trainer(Path("B"), steps=3).run
    assert runs_that_part(a, b) == "B ends after 3 steps, A after 5: all steps that both have are equal"


def test_a_step_that_not_all_replicas_have_finished_does_not_count(tmp_path):
    a, b = Trainer(tmp_path / "A", steps=3).run, Trainer(tmp_path / "B", steps=3)
    path = tmp_path / "B" / "replica-1.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]) + '{"step": 2, "it')
    b = read_run(tmp_path / "B")
    assert "ends after 2 steps" in runs_that_part(a, b)


@pytest.mark.parametrize(("norm", "judgement"), [(0.1, "as rounding does"), (0.2, "which is more than rounding does")])
def test_other_numbers_of_replicas(tmp_path, monkeypatch, norm, judgement):
    monkeypatch.chdir(tmp_path)
    a = Trainer(Path("A")).run
    b = Trainer(Path("B"), replicas=2, change=at(1, None, parameters=flipped(0), norm=norm)).run
    said = runs_that_part(a, b)
    assert said.startswith(
        "step 1: parameter 'W1' after the update differs; but A has 3 replicas and B 2, and only the"
    )
    assert judgement in said
    assert runs_that_part(a, Trainer(Path("C"), replicas=2).run) == ""
    said = runs_that_part(a, Trainer(Path("D"), replicas=2, change=at(2, None, total_items=8.0)).run)
    assert said.startswith("step 2: all replicas together have 12.0 items in A and 8.0 in D")


def test_replicas_of_one_run_that_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a = Trainer(Path("A"), change=at(3, 2, parameters=flipped(1))).run
    assert replicas_that_part(a) == (
        "A: step 3: parameter 'b' after the update differs between replicas 0 and 2: the replicas of this run are no "
        "longer equal"
    )
    assert replicas_that_part(Trainer(Path("B")).run) == ""


def test_resumed_with_another_number_of_replicas(tmp_path):
    a = Trainer(tmp_path / "A", replicas=3, steps=4).run
    for replica in range(2):
        receipt = Receipt(tmp_path / "A", replica, 2)
        for step in (2, 3, 4):
            arrays = [np.full((2, 3), step, "float32"), np.full(3, step, "float32")]
            receipt.note_gradients(step, 4.0, NAMES, arrays)
            receipt.note_update(step, 12.0, 0.1 * step, NAMES, arrays)
    resumed = read_run(tmp_path / "A")
    assert [len(step) for step in resumed.steps()] == [3, 3, 2, 2, 2]
    assert runs_that_part(a, resumed).endswith("ends after 4 steps, " + f"{tmp_path / 'A'} after 5: all steps that "
                                               "both have are equal")  # fmt: skip


def test_the_command(tmp_path):
    Trainer(tmp_path / "A")
    Trainer(tmp_path / "B", change=at(3, 2, gradients=flipped(0), parameters=flipped(0)))

    def diff(*names):
        result = run([DISTOPT, "diff", *names], cwd=tmp_path)
        return result.status, result.output.splitlines(), result.errors

    assert diff("A", "A") == (0, ["equal: 5 steps"], "")
    assert diff("A") == (0, ["equal: 5 steps"], "")
    status, said, _ = diff("A", "B")
    assert status == 1
    assert said == [
        "B: step 3: parameter 'W1' after the update differs between replicas 0 and 2: the replicas of this run are no "
        "longer equal",
        "step 3: the local gradient of 'W1' on replica 2 differs (everything before is equal)",
    ]
    status, said, errors = diff("A", "missing")
    assert (status, said) == (2, [])
    assert errors.startswith("distopt diff: 'missing' holds no receipt")


@pytest.mark.parametrize("nodes", [(0, 0, 0), (0, 1, 1)])
def test_modes_and_placements_write_the_same_receipt(tmp_path, nodes):
    def train(update):
        communicator = distopt.get_strategy().communicator
        with distopt.Strategy(communicator, update=update, receipt=tmp_path / update).scope():
            variable, optimizer = distopt.Variable(np.zeros(70_000, "f4"), name="w"), distopt.optimizers.Adam(0.1)
            for step in range(3):
                rng = np.random.default_rng([step, distopt.replica_index()])
                optimizer.apply_gradients([(rng.normal(size=70_000), variable)], items=2)

    for update in ("replicated", "shared"):
        run_on(Hub(3, nodes), train, update)
    replicated, shared = (read_run(tmp_path / update) for update in ("replicated", "shared"))
    assert len(list(shared.steps())) == 3
    assert runs_that_part(replicated, shared) == ""
    assert replicas_that_part(shared) == ""
