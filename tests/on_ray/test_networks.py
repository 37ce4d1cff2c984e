"""Two Ray nodes with a network of their own each, joined by one cable: what travels crosses it, and it can be cut."""

import ast
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from on_ray.actors import train
from support import SOON, run, script_file

import distopt


def namespaces_can_be_made():
    """Root may make network namespaces, on most systems."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"distopt-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", name]).returncode == 0


pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(not namespaces_can_be_made(), reason="needs root and ip (iproute2) to make network namespaces"),
]

SIZE = 200_000
DRIVER = """
import os, subprocess, sys, time
import ray
import distopt, distopt.ray
from distopt.errors import ReplicaError
from on_ray.actors import train

def sent():
    lines = open("/proc/net/dev").read().splitlines()
    return next(int(line.split()[9]) for line in lines if line.split()[0] == "cable:")

@ray.remote(num_cpus=1)
class Actor:
    def address(self):
        return ray.util.get_node_ip_address()
    def replica(self, index, count, update, size):
        os.environ["DISTOPT_UPDATE"] = update
        before = sent()
        with distopt.ray.init_group(index, count, f"replicas {update}") as group:
            listens = distopt.get_strategy().communicator.peers.listener.getsockname()[0]
            return distopt.get_strategy().location.node, train(size), sent() - before, listens
    def is_cut_off(self, index, count, ready):
        os.environ["DISTOPT_DEADLINES"] = "warn=1,silent=3,end=60"
        try:
            with distopt.ray.init_group(index, count, "cut off"):
                distopt.barrier()
                open(f"{ready}/{index}", "w").close()
                began = time.monotonic()
                while True:
                    distopt.barrier()
        except ReplicaError as error:
            return time.monotonic() - began, type(error).__name__, str(error)

ray.init(address="10.77.0.1:6379", log_to_driver=False)
actors = [Actor.remote() for _ in range(3)]
actors.sort(key=lambda actor: ray.get(actor.address.remote()))
folder, size = sys.argv[1], int(sys.argv[2])
for update in ("replicated", "shared"):
    print("result", ray.get([a.replica.remote(r, 3, update, size) for r, a in enumerate(actors)], timeout=60))
futures = [a.is_cut_off.remote(r, 3, folder) for r, a in enumerate(actors)]
while len(os.listdir(folder)) < 3:
    time.sleep(0.05)
subprocess.run(["ip", "link", "set", "cable", "down"], check=True)
print("cut off", ray.get(futures[:2], timeout=60), flush=True)
os._exit(0)  # what is beyond the cable can't be taken leave of
"""


def command(*words):
    subprocess.run(list(map(str, words)), check=True, capture_output=True)


def kill_all(name):
    """End what runs in a namespace: ``ray stop`` would end the clusters of other tests."""
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True)
    for pid in map(int, listed.stdout.split()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def networks():
    """The namespaces a (10.77.0.1) and b (10.77.0.2), with a cable between them and a Ray node in each."""
    a, b = (f"distopt-{end}-{os.getpid()}" for end in "ab")
    with contextlib.ExitStack() as stack:
        for name in (a, b):
            command("ip", "netns", "add", name)
            stack.callback(command, "ip", "netns", "del", name)
            stack.callback(kill_all, name)
        command("ip", "link", "add", "cable", "netns", a, "type", "veth", "peer", "name", "cable", "netns", b)
        for number, name in enumerate((a, b), 1):
            command("ip", "-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "cable")
            for link in ("cable", "lo"):
                command("ip", "-n", name, "link", "set", link, "up")
        yield a, b


def inside(name, *words, **options):
    return run(["ip", "netns", "exec", name, *words], timeout=200, **options)


def test_what_travels_crosses_the_cable_and_a_cut_is_named(networks, tmp_path, ray_directory):
    a, b = networks
    (tmp_path / "token").write_text("a-secret-of-some-length-0123456789")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    (tmp_path / "ready").mkdir()
    start = [
        os.path.join(os.path.dirname(sys.executable), "ray"),
        "start",
        "--disable-usage-stats",
        f"--temp-dir={ray_directory}",
    ]
    at = {1: "--node-ip-address=10.77.0.1", 2: "--node-ip-address=10.77.0.2"}
    head = inside(
        a,
        *start,
        "--head",
        f"--temp-dir={ray_directory}",
        at[1],
        "--num-cpus=2",
        "--include-dashboard=false",
        env=token,
    )
    assert head.status == 0, head.text
    other = inside(b, *start, "--address=10.77.0.1:6379", at[2], "--num-cpus=1", env=token)
    assert other.status == 0, other.text
    with script_file(DRIVER) as path:
        result = inside(a, sys.executable, path, str(tmp_path / "ready"), str(SIZE), env=token)
    assert result.status == 0, result.text
    expected = distopt.simulate(3, train, SIZE)[0]
    for line in re.findall("result (.*)", result.output):
        places, digests, sent, listens = zip(*ast.literal_eval(line), strict=True)
        assert places == (0, 0, 1)
        assert set(digests) == {expected}
        assert min(sent) > 4 * SIZE * 4  # each node's share of four sums, at least
        assert listens == ("10.77.0.1", "10.77.0.1", "10.77.0.2")
    ends = ast.literal_eval(re.search("cut off (.*)", result.output)[1])
    for seconds, _, text in ends:
        assert "replica 2, which gives no sign of life (is its node down, or cut off?" in text
        assert seconds < SOON
    assert "StalledError" in {name for _, name, _ in ends}  # who hears of the other's raises that
