"""The examples do what they say, as people start them."""

import copy
import re
import sys
from itertools import product

import numpy as np
import pytest
from quick import cases
from support import DISTOPT, ROOT, load_example, run, run_replicas

import distopt

EXAMPLES = ROOT / "examples"
TRAIN = EXAMPLES / "train.py"
SECONDS = 120


@pytest.fixture(scope="module")
def module():
    return load_example(TRAIN)


@pytest.fixture(scope="module")
def config(module):
    return module.read_config(module.CONFIG)


@pytest.fixture(scope="module")
def alone(module, config):
    return module.train(config)


@pytest.fixture(scope="module")
def simulated(module, config):
    """The results of four simulated replicas."""
    return distopt.simulate(4, module.train, config)


def table(result):
    """The table that a run printed."""
    assert result.status == 0, result.text
    rows = re.findall(r"^(\w[\w ]*?) {2,}(.+)$", result.output, re.MULTILINE)
    return {name: value.strip() for name, value in rows}


def test_one_process_learns_the_digits(module):
    rows = table(run([sys.executable, TRAIN], timeout=SECONDS))
    assert list(rows) == [
        "loss",
        "test accuracy",
        "items per second",
        "replicas",
        "slowest replica",
        "parameter digest",
    ]
    assert float(rows["test accuracy"].removesuffix(" %")) >= 97
    assert rows["replicas"] == "1"


def test_mpi_and_simulated_replicas_end_with_the_same_bits(simulated):
    rows = table(run_replicas(4, TRAIN, timeout=SECONDS))
    assert {rows["parameter digest"]} == {result["digest"] for result in simulated}
    assert rows["replicas"] == "4"
    assert rows["test accuracy"] == f"{simulated[0]['accuracy'] * 100:.1f} %"
    assert float(rows["test accuracy"].removesuffix(" %")) >= 97


def test_the_progress_is_replica_0s_alone():
    result = run([DISTOPT, "run", "-n", "2", TRAIN], timeout=SECONDS)
    assert result.errors.count("300/300") == 1, result.errors
    assert len(table(result)) == 6
    assert result.output.count("test accuracy") == 1


@pytest.mark.parametrize("count", [2, 3, pytest.param(8, marks=pytest.mark.slow)])
def test_the_loss_curve_does_not_depend_on_the_number_of_replicas(module, config, alone, count):
    results = distopt.simulate(count, module.train, config)
    assert len(alone["losses"]) == 300
    np.testing.assert_allclose(results[0]["losses"], alone["losses"], rtol=1e-5)
    assert len({result["digest"] for result in results}) == 1
    assert results[0]["accuracy"] >= 0.97


def test_the_loss_curve_of_four_replicas_is_that_of_one(alone, simulated):
    np.testing.assert_allclose(simulated[0]["losses"], alone["losses"], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimiser": {}}, "unknown key 'optimiser': did you mean 'optimizer'"),
        ({"data": {"global_batch": 1}}, "unknown key 'global_batch': did you mean 'global_batch_size'"),
        ({"xyz": 1}, "unknown key 'xyz': known are seed, model,"),
        ({"seed": None}, "the key 'seed' is missing"),
        ({"data": {"epochs": None}}, r"\[data\]: the key 'epochs' is missing"),
        ({"data": {"epochs": "ten"}}, "epochs = 'ten': expected int"),
    ],
)
def test_a_wrong_config_is_refused_by_name(module, config, change, message):
    wrong = copy.deepcopy(config)
    for key, value in change.items():
        if isinstance(value, dict):
            wrong.setdefault(key, {}).update(value)
        else:
            wrong[key] = value
    for table in (wrong, *(value for value in wrong.values() if isinstance(value, dict))):
        for key in [key for key, value in table.items() if value is None]:
            del table[key]
    with pytest.raises(SystemExit, match=message):
        module.check(wrong, module.KEYS, "config.toml")


def test_a_config_of_ones_own_is_read(tmp_path):
    text = (ROOT / "configs" / "digits.toml").read_text()
    (tmp_path / "quick.toml").write_text(text.replace("epochs = 20", "epochs = 1"))
    rows = table(run([sys.executable, TRAIN, "--config", tmp_path / "quick.toml"], timeout=SECONDS))
    assert float(rows["loss"]) > 0.1


@pytest.mark.parametrize(
    ("count", "name"),
    cases(
        product([1, 3], ["sum_by_hand", "median"]),
        quick=[
            (1, "sum_by_hand"),
            (3, "median"),
        ],
    ),
)
def test_the_hooks(name, count):
    script = EXAMPLES / f"{name}.py"
    result = run([sys.executable, script]) if count == 1 else run_replicas(count, script)
    assert result.status == 0, result.text
    assert result.output == f"{count} replicas learned [1.0, -2.0, 0.5]\n"


def test_a_rule_of_ones_own_beside_the_built_in_one():
    result = run_replicas(2, EXAMPLES / "own_rule.py", timeout=SECONDS)
    assert result.status == 0, result.text
    rows = re.findall(r"^(\w+), (\w+) +([\d.]+) ms$", result.output, re.MULTILINE)
    assert [row[:2] for row in rows] == [(name, mode) for mode in ("replicated", "shared") for name in ("Yogi", "Adam")]
