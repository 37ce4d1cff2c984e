"""``distopt verify``: real scripts, and what it finds wrong with them; then the numbers and the sentences alone."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from support import DISTOPT, run, script_file, started

from distopt.verify.comparison import compare, table
from distopt.verify.first_step import Entry, Recording
from distopt.verify.loss_advice import about_gradients, before_gradients

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}
SCRIPT = """
import sys
import numpy as np, distopt

mode, batch_size = sys.argv[1], int(sys.argv[2])
random = np.random.default_rng(1)
x, y = random.normal(size=(24, 5)).astype("float32"), random.normal(size=(24, 3)).astype("float32")
initial = np.random.default_rng(None if mode == "unseeded" else 0).normal(size=(5, 3))
weights = distopt.Variable(initial.astype("float32"), name="W1")
biases = distopt.Variable(np.zeros(3, "float32"), name="b")
optimizer = distopt.optimizers.Adam(0.01, global_clipnorm=1e-3)
mean_squared_error = distopt.losses.MeanSquaredError()

def loss_of(xs, ys):
    outputs = xs @ weights + biases
    if mode == "dropout":
        outputs = outputs * (np.random.default_rng().random(outputs.shape) > 0.5)
    if mode == "local mean":
        return np.mean((outputs - ys) ** 2)
    loss = mean_squared_error(ys, outputs)
    if mode == "divided twice":
        return loss / distopt.num_replicas()
    return loss + 0.01 * np.sum(weights * weights) if mode == "regularised" else loss

for batch in distopt.data.batches((x, y), global_batch_size=batch_size, seed=3):
    with distopt.GradientTape() as tape:
        loss = loss_of(*batch.arrays)
    gradients = tape.gradient(loss, [weights, biases])
    if mode == "raises" and distopt.replica_index() == 1:
        raise ValueError("boom")
    if mode == "no step" and distopt.num_replicas() > 1:
        continue
    if mode == "streamed":
        optimizer.begin_step([weights, biases])
        optimizer.push(biases, gradients[1])
        optimizer.push(weights, gradients[0])
        optimizer.end_step()
    optimizer.apply_gradients(zip(gradients, [weights, biases]))
    assert False, "the script goes on after its first step"
"""


def verify(count, mode, batch_size=24, **environment):
    with script_file(SCRIPT) as path:
        command = [DISTOPT, "verify", "-n", str(count), path, mode, str(batch_size), ":", "no-such-program"]
        return run(command, env=ENVIRONMENT | environment)


@pytest.mark.parametrize(
    ("count", "mode", "environment"),
    [
        pytest.param(2, "right", {}, marks=pytest.mark.slow),
        (3, "right", {"DISTOPT_UPDATE": "shared"}),
        (2, "streamed", {}),
        pytest.param(3, "streamed", {}, marks=pytest.mark.slow),
    ],
)
def test_a_right_script_passes(count, mode, environment, tmp_path):
    receipt = tmp_path / "receipt"
    result = verify(count, mode, DISTOPT_RECEIPT=str(receipt), **environment)
    assert not receipt.exists()
    assert result.status == 0, result.text
    assert f"equal: the gradients on {count} replicas are those of one process" in result.output
    assert result.errors == ""


@pytest.mark.parametrize(
    ("count", "mode", "sentence"),
    [
        (2, "local mean", "'W1' on 2 replicas is 2.00 times that of one process (and so are those of all 2 variables): "
            "the loss is a local mean"),
        (3, "divided twice", "'W1' on 3 replicas is 0.33 times that of one process (and so are those of all 2 "
            "variables): it is divided twice"),
        (3, "regularised", "'W1' on 3 replicas differs from that of one process by a multiple of the variable itself: "
            "an L2 term of the loss is counted 3 times"),
        (2, "unseeded", "the parameters themselves differ before the first step, first 'W1' (1 of 2 variables): seed"),
        (2, "dropout", "two runs in one process have different gradients"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(count, mode, sentence):
    result = verify(count, mode)
    assert result.status == 1, result.text
    assert sentence in result.output
    assert result.errors == ""


def test_unequal_shares_of_a_local_mean():
    result = verify(3, "local mean", 10)
    assert result.status == 1, result.text
    assert "the replicas have 4, 3, 3 examples, and the loss seems to be a local mean" in result.output


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("no step", "Error: on 2 replicas the script ended without a step that aggregates"),
        ("raises", "Error: on 2 replicas the script failed (status "),
    ],
)
def test_a_script_that_reaches_no_step(mode, sentence):
    result = verify(2, mode)
    assert result.status == 1, result.text
    assert sentence in result.errors
    assert ("ValueError: boom" in result.errors) == (mode == "raises")


def test_a_stopped_verify_takes_its_replicas_along(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    stop = f"if distopt.num_replicas() > 1:\n    kept = open({str(pipe)!r}, 'w')\n    import time; time.sleep(60)\n"
    text = SCRIPT.replace("for batch in", stop + "for batch in")
    with script_file(text) as path:
        command = [DISTOPT, "verify", "-n", "2", path, "right", "24"]
        with started(command, env=ENVIRONMENT) as job, pipe.open() as alive:  # opened when a replica opens it
            job.process.terminate()
            assert alive.read() == ""  # the end of the file: nobody holds it open any more
            assert job.wait().status == 128 + signal.SIGTERM


def test_no_script():
    result = run([DISTOPT, "verify", "-n", "2", "missing.py"])
    assert result.status == 1
    assert "there is no script 'missing.py' to verify" in result.errors


# What is compared, without processes


def recording(*gradients, parameter=None, items=(None,), examples=(8,), dtype="float32", rows=None):
    entries = []
    for k, gradient in enumerate(gradients):
        value = np.arange(1, 7, dtype="float32") if parameter is None else parameter
        array = None if gradient is None else np.asarray(gradient, "float32")
        entries.append(Entry(f"v{k}", dtype, value, array, rows))
    return Recording(list(items), list(examples), entries)


RANDOM = np.random.default_rng(5)
G = RANDOM.normal(size=6)
H = RANDOM.normal(size=6)
MANY = {"items": (None, None, None, None), "examples": (2, 2, 2, 2)}


def advice(one, many, tolerance=1e-4):
    reason = before_gradients(one, many)
    return [reason] if reason else about_gradients(one, many, compare(one, many, tolerance))


@pytest.mark.parametrize(
    ("one", "many", "sentence"),
    [
        (recording(G), recording(4 * G, **MANY), "4.00 times that of one process: the loss is a local mean"),
        (recording(G), recording(G / 4, **MANY), "0.25 times that of one process: it is divided twice"),
        (recording(G), recording(G / 90, **MANY), "0.0111 times that of one process: something is divided by a count"),
        (recording(G), recording(4 * G, H, **MANY), "where 4 replicas have 'v1' float32[6]"),
        (recording(G, dtype="float64"), recording(G, **MANY), "different variables: 'v0' float64[6] in one process"),
        (recording(G), recording(None, **MANY), "'v0' has a gradient in one process and none on 4 replicas"),
        (recording(G), recording(G * np.nan, **MANY), "on 4 replicas is not finite, that of one process is"),
        (recording(G * np.nan), recording(G, **MANY), "'v0' is not finite in one process already"),
        (recording(G), recording(G * np.nan, **MANY | {"examples": (4, 4, 0, 0)}), "replica 2 has no examples"),
        (recording(G), recording(G, **MANY | {"examples": (8, 8, 8, 8)}), "takes 8 examples in its first step and 4"),
        (recording(G, items=(8,)), recording(G, **MANY | {"items": (3,) * 4}), "together take 12: the global batch"),
        (recording(G, H), recording(G, 4 * H, **MANY), "gradients of other variables are equal: a term of the loss"),
        (recording(G, H), recording(H, G, **MANY), "is no multiple of it: the replicas see other data"),
        (recording(0 * G), recording(G, **MANY), "is no multiple of it"),
    ],
)  # fmt: skip
def test_sentences(one, many, sentence):
    said = advice(one, many)
    assert sentence in said[0], said


def test_what_has_cancelled_out_is_rounding():
    noise = 1e-9 * RANDOM.normal(size=(2, 6))
    one, many = recording(G, noise[0]), recording(G * (1 + 1e-6), noise[1], **MANY)
    assert advice(one, many) == []
    assert "local mean" in advice(one, recording(4 * G, noise[1], **MANY))[0]


def test_the_tolerance_counts_and_is_larger_in_16_bits():
    many = recording(G + 1e-3 * H, **MANY)
    assert advice(recording(G), many) != []
    assert advice(recording(G), many, tolerance=1e-2) == []
    half = [recording(g, dtype="float16", **more) for g, more in ((G, {}), (G + 1e-3 * H, MANY))]
    assert advice(*half) == []


def test_l1_terms_are_known_by_the_signs():
    parameter = RANDOM.normal(size=6).astype("float32")
    one, many = recording(G, parameter=parameter), recording(G + 0.3 * np.sign(parameter), parameter=parameter, **MANY)
    assert "by a multiple of its signs: an L1 term of the loss is counted 4 times" in advice(one, many)[0]


@pytest.mark.parametrize("scale", [1, 4])
def test_sparse_gradients_are_compared_by_rows(scale):
    table_of = RANDOM.normal(size=(50, 3)).astype("float32")
    rows = RANDOM.normal(size=(2, 3)).astype("float32")
    padded = np.concatenate([scale * rows, np.zeros((1, 3), "float32")])
    one = Recording([None], [8], [Entry("E", "float32", table_of, rows, np.array([3, 40]))])
    many = Recording([None] * 4, [2] * 4, [Entry("E", "float32", table_of, padded, np.array([3, 40, 41]))])
    dense = np.zeros_like(table_of)
    dense[[3, 40]] = scale * rows
    as_dense = Recording([None] * 4, [2] * 4, [Entry("E", "float32", table_of, dense)])
    for other in (many, as_dense):
        said = advice(one, other)
        assert (said == []) if scale == 1 else "4.00 times" in said[0]


def test_a_table_shows_first_what_differs():
    gradients = [G] * 20
    one, many = recording(*gradients), recording(*gradients[:-1], 2 * G, **MANY)
    text = table(compare(one, many), 5).splitlines()
    assert text[1].startswith("v19 ")
    assert text[1].endswith("2  differs")
    assert text[-1] == "and 15 more"
    assert len(text) == 7


def test_a_table_of_short_names_lines_up():
    head, line = table(compare(recording(G), recording(2 * G, **MANY)), 5).splitlines()
    assert len(head) == len(line.removesuffix("  differs"))


def test_recordings_keep_what_they_are_given(tmp_path: Path):
    path = tmp_path / "step.npz"
    half = np.float16([1, 2])
    written = Recording(
        [3.0, None],
        [2, None],
        [
            Entry("a/b", "float32", G, H),
            Entry("c", "float16", half, None),
            Entry("E", "float32", G, H[:1], np.array([4])),
        ],
    )
    written.save(path)
    read = Recording.load(path)
    assert (read.items, read.examples, read.replicas) == (written.items, written.examples, 2)
    for mine, its in zip(read.entries, written.entries, strict=True):
        assert (mine.name, mine.dtype) == (its.name, its.dtype)
        for part in ("parameter", "gradient", "rows"):
            np.testing.assert_array_equal(getattr(mine, part), getattr(its, part))
    assert read.entries[1].parameter.dtype == "float32"
    assert read.entries[1].gradient is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["step.npz"]
