"""The tests of ``tests/parallel`` and of the Keras adapter in processes of Ray: each is a replica and runs them all."""

import contextlib
import importlib.util
import re

import pytest
import ray
from support import ROOT

import distopt.ray

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("cluster")]


TESTS = ROOT / "tests" / "parallel"
KERAS = ROOT / "tests" / "frameworks" / "on_keras" / "on_replicas.py"
needs_keras = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="needs keras: make test-frameworks")
SOME = [
    TESTS / folder / f"test_{name}.py"
    for folder, name in [
        ("steps", "conformance"),
        ("modes", "modes"),
        ("agreement", "mismatch"),
        ("steps", "uneven"),
        ("modes", "bits"),
        ("agreement", "nonfinite"),
    ]
]


@ray.remote(num_cpus=1, max_calls=1)  # each in a new process
def run_tests(index, count, log, tests):
    """Run them as one replica; what a replica prints goes into a file of its own."""
    with open(log, "w", buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        distopt.ray.init_group(index, count, f"{len(tests)} parallel tests on {count}")
        options = ["-q", "-x", "--on-ray", "-p", "no:cacheprovider", "-p", "no:xdist", "--capture=no"]
        return int(pytest.main([*options, "-m", "not slow", *map(str, tests)]))


@pytest.mark.parametrize(
    ("count", "tests"),
    [
        pytest.param(3, SOME, id="some-3"),
        pytest.param(2, [KERAS], id="keras", marks=needs_keras),
        pytest.param(2, [TESTS], id="all-2", marks=pytest.mark.slow),
        pytest.param(3, [TESTS], id="all-3", marks=pytest.mark.slow),
    ],
)
def test_the_parallel_tests(count, tests, tmp_path):
    logs = [tmp_path / f"replica-{r}.txt" for r in range(count)]
    futures = [run_tests.options(max_retries=0).remote(r, count, log, tests) for r, log in enumerate(logs)]
    done, _ = ray.wait(futures, num_returns=count, timeout=850)
    texts = [log.read_text()[-5000:] for log in logs]
    assert len(done) == count, texts
    try:
        statuses = ray.get(futures)
    except ray.exceptions.RayError as error:
        raise AssertionError(texts) from error
    assert statuses == [0] * count, texts
    assert all(re.match(r"\d+ passed", text.splitlines()[-1]) for text in texts), texts
