"""The PyTorch adapter under mpirun: its own tests on every rank, and the example."""

import re
import sys

import pytest

torch = pytest.importorskip("torch")

from support import ROOT, mpirun_command, run, run_replicas  # noqa: E402

EXAMPLE = ROOT / "examples" / "digits_torch.py"
TESTS = [ROOT / "tests" / "frameworks" / f"test_torch{part}.py" for part in ("", "_refusals", "_state")]


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_the_tests_on_ranks(ranks):
    result = run([*mpirun_command(ranks), "-m", "pytest", "-q", "--only-mpi", *TESTS], timeout=110)
    assert result.status == 0, result.text
    assert re.search(r"^\d+ passed", result.output, re.MULTILINE), result.text


def table(result):
    assert result.status == 0, result.text
    return dict(re.findall(r"^(\w[\w ]*?) {2,}(.+)$", result.output, re.MULTILINE))


def test_the_example_in_one_process():
    rows = table(run([sys.executable, EXAMPLE], timeout=100))
    assert list(rows) == ["loss", "test accuracy", "items per second", "replicas", "parameter digest"]
    assert float(rows["test accuracy"].removesuffix(" %")) >= 97


def test_the_example_on_four_ranks():
    digests = set()
    for env in ({}, {"DISTOPT_UPDATE": "shared", "DISTOPT_BUCKET_BYTES": "20000"}):
        rows = table(run_replicas(4, EXAMPLE, env=env, timeout=100))
        assert rows["replicas"] == "4"
        assert float(rows["test accuracy"].removesuffix(" %")) >= 97
        digests.add(rows["parameter digest"])
    assert len(digests) == 1


@pytest.mark.parametrize(("env", "threads"), [({}, 1), ({"DISTOPT_THREADS": "2"}, 2)])
def test_pytorch_has_the_configured_threads(env, threads):
    script = """\
import torch, distopt
from distopt.adapters.torch import DistributedOptimizer
DistributedOptimizer(torch.nn.Linear(1, 1).named_parameters(), distopt.optimizers.SGD(0.1))
print("threads", torch.get_num_threads())
"""
    result = run_replicas(2, script, env=env)
    assert result.output.count(f"threads {threads}\n") == 2, result.text
