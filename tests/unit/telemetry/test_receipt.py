"""Receipts: one line per step and replica, from which not a bit is lost."""

import json
import os
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from support import run

import distopt
from distopt.errors import InvalidArgumentError
from distopt.telemetry import Receipt
from distopt.telemetry.receipt_reader import read_run
from distopt.variables.indexed_slices import IndexedSlices

W, B = np.arange(6, dtype="float32").reshape(2, 3), np.ones(3, "float64")


def lines(directory: Path, replica: int = 0) -> list[dict]:
    return [json.loads(line) for line in (directory / f"replica-{replica}.jsonl").read_text().splitlines()]


def write(receipt: Receipt, step: int, arrays=(W, B), *, gradients=None, items=8.0, norm=1.0) -> None:
    names = [f"v{k}" for k in range(len(arrays))]
    receipt.note_gradients(step, items, names, arrays if gradients is None else gradients)
    receipt.note_update(step, items, norm, names, arrays)


def test_the_first_line_describes_the_run_and_each_step_has_one(tmp_path):
    receipt = Receipt(tmp_path / "new" / "folder", 1, 4)
    for step in (0, 1):
        write(receipt, step)
    head, *steps = lines(tmp_path / "new" / "folder", 1)
    assert (head["replica"], head["replicas"]) == (1, 4)
    assert head["versions"]["numpy"] == np.__version__
    assert head["variables"] == [["v0", "float32", [2, 3]], ["v1", "float64", [3]]]
    assert [step["step"] for step in steps] == [0, 1]
    assert steps[0]["parameters"] == [xxhash.xxh3_64_hexdigest(array.tobytes()) for array in (W, B)]


def test_a_line_is_there_as_soon_as_its_step_is_done(tmp_path):
    script = (
        "import os, sys, numpy as np\nfrom distopt.telemetry import Receipt\nreceipt = Receipt(sys.argv[1], 0, 1)\n"
        "w = [np.ones(3)]\nreceipt.note_gradients(0, None, ['w'], w)\nreceipt.note_update(0, None, 1.0, ['w'], w)\n"
        "receipt.note_gradients(1, None, ['w'], w)\nos.kill(os.getpid(), 9)\n"
    )
    assert run([sys.executable, "-c", script, tmp_path]).status == -9
    assert [line.get("step") for line in lines(tmp_path)] == [None, 0]


@given(number=st.floats())
def test_numbers_keep_every_bit(number, tmp_path_factory):
    directory = tmp_path_factory.mktemp("receipt")
    write(Receipt(directory, 0, 1), 0, items=number, norm=number)
    line = lines(directory)[-1]
    for key in ("items", "total_items", "gradient_norm"):
        assert np.float64(line[key]).tobytes() == np.float64(number).tobytes() or np.isnan(number)


def test_every_bit_of_every_array_counts(tmp_path):
    receipt = Receipt(tmp_path, 0, 1)
    half = np.ones(4, ml_dtypes.bfloat16)
    strided = np.arange(12, dtype="float32").reshape(3, 4)[:, ::2]
    rows = IndexedSlices(np.ones((2, 3), "float32"), [1, 4], (5, 3))
    other_rows = IndexedSlices(rows.values, [1, 3], (5, 3))
    flipped = W.copy()
    flipped.view(np.uint32)[1, 2] ^= 1
    gradients = [W, flipped, half, strided, rows, other_rows, np.float32(3), np.zeros((0, 3)), None]
    write(receipt, 0, [W] * len(gradients), gradients=gradients)
    write(receipt, 1, [W] * len(gradients), gradients=gradients)
    _, first, second = lines(tmp_path)
    assert first["gradients"][-1] is None
    assert len(set(first["gradients"])) == len(gradients)
    assert first["gradients"] == second["gradients"]
    assert first["digest"] == second["digest"]
    assert first["gradients"][3] == xxhash.xxh3_64_hexdigest(np.ascontiguousarray(strided).tobytes())


def test_other_variables_are_described_where_they_begin(tmp_path):
    receipt = Receipt(tmp_path, 0, 1)
    for step, arrays in enumerate([[W], [W], [W, B], [W]]):
        write(receipt, step, arrays)
    described = [len(line.get("variables", [])) for line in lines(tmp_path)]
    assert described == [1, 0, 0, 2, 0, 1, 0]
    assert sum("replicas" in line for line in lines(tmp_path)) == 1
    (steps,) = read_run(tmp_path).replicas
    assert [len(step.parameters) for step in steps.values()] == [1, 1, 2, 1]


def test_arrays_are_not_changed_and_may_change_afterwards(tmp_path):
    gradient = W.copy()
    receipt = Receipt(tmp_path, 0, 1)
    receipt.note_gradients(0, None, ["w"], [gradient])
    np.testing.assert_array_equal(gradient, W)
    gradient[:] = 0
    receipt.note_update(0, None, 1.0, ["w"], [W])
    assert lines(tmp_path)[-1]["gradients"] == [xxhash.xxh3_64_hexdigest(W.tobytes())]


@pytest.mark.parametrize(("step", "names"), [(4, ["w"]), (3, ["v"])])
def test_an_update_without_its_gradients_is_refused(tmp_path, step, names):
    receipt = Receipt(tmp_path, 0, 1)
    receipt.note_gradients(3, None, ["w"], [W])
    with pytest.raises(InvalidArgumentError, match=rf"note_update of step {step} .* last for step 3 with \['w'\]"):
        receipt.note_update(step, None, 1.0, names, [W])
    receipt.note_update(3, None, 1.0, ["w"], [W])
    with pytest.raises(InvalidArgumentError, match="note_update of step 3"):
        receipt.note_update(3, None, 1.0, ["w"], [W])


def test_a_directory_that_can_not_be_written_is_an_error(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(
        InvalidArgumentError, match=r"receipt of replica 2 can't be written to .*file.*replica-2\.jsonl"
    ):
        Receipt(file, 2, 4)


def test_a_resumed_run_replaces_the_steps_that_it_does_again(tmp_path):
    for begin, end, scale in ((0, 6, 1), (4, 8, 2)):  # the checkpoint was that of step 4
        receipt = Receipt(tmp_path, 0, 1)
        for step in range(begin, end):
            write(receipt, step, [W * scale])
    (steps,) = read_run(tmp_path).replicas
    assert [step.number for step in steps.values()] == list(range(8))
    one, two = (xxhash.xxh3_64_hexdigest((W * scale).tobytes()) for scale in (1, 2))
    assert [step.parameters[0] for step in steps.values()] == [one] * 4 + [two] * 4


def test_a_run_that_begins_anew_replaces_all(tmp_path):
    for count in (5, 3):
        receipt = Receipt(tmp_path, 0, count)
        for step in range(count):
            write(receipt, step)
    path = tmp_path / "replica-0.jsonl"
    path.rename(tmp_path / "kept")
    for replica in range(3):
        os.link(tmp_path / "kept", tmp_path / f"replica-{replica}.jsonl")
    run_of = read_run(tmp_path)
    assert len(run_of.replicas) == 3
    assert [steps[0].number for steps in run_of.steps()] == [0, 1, 2]


def test_two_optimizers_that_count_each_for_itself(tmp_path):
    receipt = Receipt(tmp_path, 0, 1)
    for step in range(3):
        write(receipt, step, [W])
        write(receipt, step, [B])
        write(receipt, step, [B])
    assert [step[0].number for step in read_run(tmp_path).steps()] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_replica_writes_one_receipt_whoever_asks_for_it(tmp_path):
    def replica():
        index = distopt.replica_index()
        one, other = Receipt.of(tmp_path, index, 2), Receipt.of(str(tmp_path), index, 2)
        assert one is other
        return one

    first, second = distopt.simulate(2, replica)
    assert first is not second
    assert Receipt.of(tmp_path, 0, 2) is not Receipt.of(tmp_path, 0, 1)


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_line_that_was_cut_off_is_passed_over(tmp_path, cut):
    receipt = Receipt(tmp_path, 0, 1)
    for step in range(3):
        write(receipt, step)
    path = tmp_path / "replica-0.jsonl"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - cut)
    assert [step[0].number for step in read_run(tmp_path).steps()] == ([0, 1, 2] if cut == 1 else [0, 1])
    receipt = Receipt(tmp_path, 0, 1)  # the run is resumed
    write(receipt, 2)
    write(receipt, 3)
    assert [step[0].number for step in read_run(tmp_path).steps()] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "text",
    [
        "no JSON\nnor this\n",
        '{"variables": []}\n17\n{"step": 0}\n',
        '{"step": 0}\n',
        '{"replicas": 1, "variables": [["w", "float32", [2]]]}\n{"step": 0, "items": null, "gradients": [], '
        '"total_items": null, "gradient_norm": "1.0", "parameters": [], "digest": ""}\n',
        '{"replicas": 1, "variables": 3}\n',
    ],
)
def test_what_is_no_receipt_is_an_error(tmp_path, text):
    (tmp_path / "replica-0.jsonl").write_text(text)
    with pytest.raises(InvalidArgumentError, match=r"replica-0.jsonl' is no receipt, or a damaged one"):
        read_run(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidArgumentError, match="holds no receipt"):
        read_run(tmp_path)
    write(Receipt(tmp_path, 0, 2), 0)
    with pytest.raises(InvalidArgumentError, match=r"one of 2 replicas and lacks replica-1\.jsonl"):
        read_run(tmp_path)
