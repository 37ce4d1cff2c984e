"""The digits job on 4 replicas, on a fresh local Ray cluster and under mpirun: how long until what."""

import importlib.util
import json
import statistics
import time
from pathlib import Path

import pytest
from benchmarks.measure import FULL, keep, show
from support import DISTOPT, ROOT, run

REPEATS = 3 if FULL else 1
EXAMPLE = ["examples/train.py", "--config", "configs/digits.toml"]
pytestmark = [
    pytest.mark.benchmark,
    *[pytest.mark.slow] * (not FULL),  # starts a Ray cluster, which make test does not
    pytest.mark.timeout(600),
    pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="make install-ray, make test-frameworks"),
]


def job(folder, options=(), **settings):
    """Run it once; return the seconds to the start of the last replica and to its first step, and steps per second."""
    folder.mkdir()
    timed = [Path(__file__).with_name("timed.py"), folder]
    began = time.time()
    result = run([DISTOPT, "run", "-n", "4", *options, *timed, *EXAMPLE], timeout=180, cwd=ROOT, **settings)
    assert result.status == 0, result.text
    records = [json.loads(path.read_text()) for path in folder.iterdir()]
    assert len(records) == 4
    ready = max(record["began"] for record in records)
    first = max(record["first step"] for record in records)
    return {
        "replicas start": ready - began,
        "first step": first - ready,
        "steps per second": min(record["rate"] for record in records),
        "whole command": result.seconds,
    }


def on_ray(folder):
    import ray

    began = time.perf_counter()
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    cluster = time.perf_counter() - began
    try:
        there = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        return {"cluster start": cluster} | job(folder, ["--backend", "ray"], env=there)
    finally:
        ray.shutdown()


def test_the_digits_job(tmp_path):
    starts = {"Ray, fresh local cluster": on_ray, "mpirun": job}
    for name, start in starts.items():  # compiles what is not compiled yet
        start(tmp_path / f"{name} warm") if FULL else None
    runs = {name: [] for name in starts}
    for k in range(REPEATS):
        for name, start in starts.items():
            runs[name].append(start(tmp_path / f"{name} {k}"))
    rows = {
        name: {what: statistics.median(each[what] for each in several) for what in several[0]}
        for name, several in runs.items()
    }
    show("the digits job, 4 replicas", "s, steps/s", rows, how=f"medians of {REPEATS} runs in turns")
    keep("ray-startup", rows)
    assert rows["Ray, fresh local cluster"]["steps per second"] > 0
