"""A head that somebody has started, and a job that is submitted to it: as docs/ray.md says, with launch/."""

import contextlib
import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest
from support import DISTOPT, ROOT, run, started

pytestmark = pytest.mark.timeout(600)
SCRIPT = ROOT / "launch" / "ray_job_submit.sh"
RAY = str(Path(sys.executable).with_name("ray"))


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture
def head(tmp_path, ray_directory):
    """What somebody needs to know of a head that runs here, as environment variables."""
    port, dashboard, agent, metrics = free_ports(4)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # as in an environment that was activated
    made = run([RAY, "get-auth-token", "--generate"], env={"HOME": str(tmp_path), "PATH": path})
    assert made.status == 0, made.text
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / ".ray" / "auth_token"), "PATH": path}
    command = [
        *(RAY, "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=4", f"--port={port}"),
        f"--temp-dir={ray_directory}",
        *(
            f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}",
            f"--metrics-export-port={metrics}",
        ),
    ]
    with started(command, env=token) as job:
        job.wait_for("Ray runtime started", timeout=60)
        yield token | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}", "RAY_ADDRESS": f"127.0.0.1:{port}"}
        os.kill(job.process.pid, signal.SIGTERM)


def test_a_submitted_job_has_the_digest_of_mpirun(head):
    example = ["examples/train.py", "--config", "configs/digits.toml"]
    submitted = run(["bash", SCRIPT, "4", *example], timeout=300, env=head, cwd=ROOT)
    assert submitted.status == 0, submitted.text
    under_mpi = run([DISTOPT, "run", "-n", "4", *example], cwd=ROOT)
    digests = [re.search(r"parameter digest +(\w+)", each.text)[1] for each in (submitted, under_mpi)]
    assert digests[0] == digests[1]

    stranger = head | {"RAY_AUTH_TOKEN_PATH": str(Path(head["RAY_AUTH_TOKEN_PATH"]).with_name("other"))}
    Path(stranger["RAY_AUTH_TOKEN_PATH"]).write_text("some-other-secret-0123456789")
    refused = run(["bash", SCRIPT, "2", *example], timeout=150, env=stranger, cwd=ROOT)
    assert refused.status != 0
    assert "authenticat" in refused.text.lower()


@pytest.mark.parametrize("token", [None, ""], ids=["no file", "an empty file"])
def test_without_a_token_the_script_says_how_to_get_one(token, tmp_path):
    if token is not None:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(token)
    result = run(["bash", SCRIPT, "2", "train.py"], env={"HOME": str(tmp_path)})
    assert result.status == 1
    assert len(result.text.splitlines()) == 1
    assert f"there is no token in {tmp_path}/.ray/auth_token" in result.errors
    assert "ray get-auth-token --generate" in result.errors
