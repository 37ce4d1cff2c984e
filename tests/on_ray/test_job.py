"""``distopt run --backend ray``: the same script, what it prints, how it ends."""

import os
import re
import signal
import time

import pytest
import ray
from support import DISTOPT, ROOT, run, script_file, started

pytestmark = pytest.mark.timeout(300)

TRAINING = """
import os, sys
import numpy as np, distopt
from distopt.checkpoint import Checkpointer
directory, steps = sys.argv[1], int(sys.argv[2])
w = distopt.Variable(np.zeros(100, "float32"), name="w")
optimizer = distopt.optimizers.SGD(0.1, momentum=0.9)
with Checkpointer(directory, optimizer=optimizer, variables=[w]) as checkpointer:
    begin = checkpointer.restore() or 0
    distopt.print_once(f"begins after {begin}")
    for step in range(begin, steps):
        optimizer.apply_gradients([(w.numpy() + step + distopt.replica_index(), w)])
        checkpointer.save_every(2)
distopt.print_once(f"digest {distopt.digest([w])}")
"""


@pytest.fixture
def there(cluster):
    """The environment of somebody who is told of the cluster."""
    return {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}


def job(script, *arguments, replicas=2, options=(), **settings):
    command = [DISTOPT, "run", "--backend", "ray", "-n", str(replicas), *options]
    return run([*command, script, *arguments], timeout=250, **settings)


@pytest.mark.slow
def test_the_example_on_a_cluster_of_its_own_has_the_digest_of_mpirun():
    example = [ROOT / "examples" / "train.py", "--config", ROOT / "configs" / "digits.toml"]
    on_ray = job("examples/train.py", "--config", "configs/digits.toml", replicas=4, cwd=ROOT)
    assert on_ray.status == 0, on_ray.text
    under_mpi = run([DISTOPT, "run", "-n", "4", *example])
    tables = [dict(re.findall(r"^(\w[\w ]*?) {2,}(.+)$", each.output, re.MULTILINE)) for each in (on_ray, under_mpi)]
    for row in ("loss", "test accuracy", "replicas", "parameter digest"):
        assert tables[0][row] == tables[1][row]
    assert "training" in on_ray.text


@pytest.mark.slow
def test_a_script_is_where_it_was_started_with_its_arguments_on_a_cluster_of_its_own(tmp_path):
    (tmp_path / "neighbour.py").write_text("name = 'found'\n")
    (tmp_path / "script.py").write_text(
        "import os, sys, distopt, neighbour, ray\n"
        "cpus = ray.cluster_resources()['CPU']\n"
        "print(f'{distopt.replica_index()} {os.getcwd()} {sys.argv} {neighbour.name} {__name__} {cpus}')\n"
        "sys.stderr.write(f'error stream of {distopt.replica_index()}\\n')\n"
    )
    result = job("script.py", "-n", "7", "--", "x", cwd=tmp_path)
    assert result.status == 0, result.text
    expected = f"{tmp_path} {[str(tmp_path / 'script.py'), '-n', '7', '--', 'x']} found __main__ 2.0"
    assert sorted(result.output.splitlines()) == [f"0 {expected}", f"1 {expected}"]
    assert all(f"error stream of {r}\n" in result.errors for r in range(2))


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "status"), [("raise ValueError('boom')", 1), ("sys.exit(5)", 5)])
def test_a_failure_is_printed_once_with_its_replica(ending, status, there):
    script = f"import distopt, sys\ndistopt.barrier()\nif distopt.replica_index() == 1: {ending}\ndistopt.barrier()\n"
    with script_file(script) as path:
        result = job(path, env=there)
    assert result.status == status, result.text
    assert result.errors.count("Traceback") == 1
    assert re.search(r'\nReplica 1 failed:\nTraceback .*:\n  File ".*script.py", line 3', result.errors)


@pytest.mark.slow
def test_a_module_and_lines_that_are_headed_by_their_replica(there, tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(
        "import sys, distopt\n"
        "print(distopt.replica_index(), __spec__.name, sys.argv[1:], vars(sys.modules['__main__']) is globals())\n"
    )
    result = job("package", ":", "--x", options=["--prefix", "-m"], cwd=tmp_path, env=there)
    assert result.status == 0, result.text
    expected = {f"[{r}] {r} package.__main__ [':', '--x'] True" for r in range(2)}
    assert expected <= set(result.output.splitlines())


@pytest.mark.slow
def test_an_exit_with_status_0_is_no_failure(there):
    with script_file("import distopt, sys\ndistopt.barrier()\nprint('ends')\nsys.exit(0)\n") as path:
        result = job(path, env=there)
    assert (result.status, result.output.split()) == (0, ["ends", "ends"]), result.text


@pytest.mark.slow
def test_a_killed_replica_is_started_again_from_the_checkpoint(there, tmp_path):
    with script_file(TRAINING) as path:
        undisturbed = run([DISTOPT, "run", "-n", "2", path, tmp_path / "mpi", "9"])
        options = ["--max-restarts", "1", "--inject", "kill replica 1 at step 5"]
        result = job(path, tmp_path / "ray", "9", options=options, env=there)
    assert result.status == 0, result.text
    begins = re.findall(r"begins after (\d+)", result.output)
    assert begins[0] == "0"
    assert int(begins[1]) >= 2
    assert re.findall("digest .*", result.output) == re.findall("digest .*", undisturbed.output)


def test_what_does_not_fit_is_said_at_once(there):
    with script_file("") as path:
        result = job(path, replicas=20, env=there)
    assert result.status == 1
    assert "20 workers need {'CPU': 1} each, and CPU is short" in result.errors
    assert "Traceback" not in result.errors


def test_too_many_replicas_for_a_cluster_of_its_own_are_refused_at_once(tmp_path):
    count = 1000 * len(os.sched_getaffinity(0))
    with script_file("") as path:
        result = job(path, replicas=count, env={"RAY_ADDRESS": "local"})
    assert result.status == 1
    assert re.search(rf"{count} replicas on the \d+ cores of this machine are too many .* Take at most", result.errors)
    assert "Traceback" not in result.errors


def test_a_cluster_that_does_not_answer_is_said_at_once():
    with script_file("") as path:
        result = job(path, env={"RAY_ADDRESS": "127.0.0.1:1"})
    assert result.status == 1
    assert (
        "no Ray cluster answers at 127.0.0.1:1 ([Errno 111] Connection refused), which is RAY_ADDRESS" in result.errors
    )


@pytest.mark.slow
def test_ctrl_c_ends_the_job_and_its_workers(there):
    script = "import distopt\ndistopt.print_once('trains', flush=True)\nwhile True: distopt.barrier()\n"
    with script_file(script) as path, started([DISTOPT, "run", "--backend", "ray", "-n", "2", path], env=there) as job:
        job.wait_for("trains")
        job.process.send_signal(signal.SIGINT)
        result = job.wait()
    assert result.status == 130, result.text
    assert "Traceback" not in result.errors
    assert result.errors.splitlines()[-1] == "distopt run: stopped by SIGINT"
    end = time.monotonic() + 20
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < end, "workers are still there"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_receipt_is_written_where_it_is_asked_for(there, tmp_path):
    script = """
import numpy as np, distopt
w = distopt.Variable(np.zeros(3, "float32"), name="w")
for _ in range(3): distopt.optimizers.SGD(0.1).apply_gradients([(np.ones(3, "float32"), w)])
"""
    with script_file(script) as path:
        result = job(path, options=["--receipt", "here"], cwd=tmp_path, env=there)
    assert result.status == 0, result.text
    assert sorted(os.listdir(tmp_path / "here")) == ["replica-0.jsonl", "replica-1.jsonl"]
