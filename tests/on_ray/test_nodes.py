"""Several Ray nodes, all of them on this machine: places, uneven ones too, and a node that goes."""

import ast
import re

import pytest
from on_ray.actors import train
from support import run, script_file

import distopt

pytestmark = pytest.mark.timeout(600)

# A driver of its own: a process belongs to one cluster.
CLUSTER = """
import atexit, os, sys, threading, time
from pathlib import Path
import numpy as np, ray
from ray.cluster_utils import Cluster
import distopt, distopt.ray
from on_ray.actors import train

cpus = [int(text) for text in sys.argv[1].split(",")]
soon = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 300, "health_check_failure_threshold": 5}
# Its address is noted where every later cluster of this machine looks, until it is shut down.
atexit.register(lambda: cluster.shutdown())
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], "_system_config": soon})
nodes = [cluster.add_node(num_cpus=count) for count in cpus[1:]]
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
"""
PLACES = """
@ray.remote(num_cpus=1)
class Actor:
    def node(self): return ray.get_runtime_context().get_node_id()
    def replica(self, index, count, name, update):
        with distopt.ray.init_group(index, count, name):
            with distopt.Strategy(distopt.get_strategy().communicator, update=update).scope() as strategy:
                place = strategy.location
                peers = distopt.get_strategy().communicator.peers
                listens = peers.listener.getsockname()[0]
                return (place.node, place.index_on_node, place.replicas_on_node), train(), listens

actors = [Actor.remote() for _ in range(sum(cpus))]
actors.sort(key=lambda actor: ray.get(actor.node.remote()))
for update in ("replicated", "shared"):
    futures = [a.replica.remote(r, len(actors), f"places {update}", update) for r, a in enumerate(actors)]
    print("result", ray.get(futures, timeout=100))
"""


def script(text, *arguments):
    import sys

    with script_file(CLUSTER + text) as path:
        return run([sys.executable, path, *arguments], timeout=550)


@pytest.mark.slow
@pytest.mark.parametrize("cpus", [(2, 2), (3, 1), (1, 2, 1)], ids=str)
def test_places_and_bits(cpus):
    result = script(PLACES, ",".join(map(str, cpus)))
    assert result.status == 0, result.text
    lines = re.findall("result (.*)", result.output)
    assert len(lines) == 2, result.text
    count = sum(cpus)
    for line in lines:
        places, digests, addresses = zip(*ast.literal_eval(line), strict=True)
        assert set(digests) == {distopt.simulate(count, train)[0]}
        assert sorted({place[0] for place in places}) == list(range(len(cpus)))
        for node in range(len(cpus)):
            there = [place[1:] for place in places if place[0] == node]
            assert there == [(k, len(there)) for k in range(len(there))]
        assert sorted(sum(place[0] == n for place in places) for n in range(len(cpus))) == sorted(cpus)
        assert "0.0.0.0" not in addresses
        assert len(set(addresses)) == 1


ELASTIC = """
os.environ |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_METRICS_ENABLED": "0"}
os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # a process less
os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "10"
from ray.train import FailureConfig, RunConfig, ScalingConfig
from distopt.checkpoint import Checkpointer
folder = Path(sys.argv[2])

def loop():
    w = distopt.Variable(np.zeros(1000, "float32"), name="w")
    optimizer = distopt.optimizers.SGD(0.1)
    checkpointer = Checkpointer(folder / "checkpoints", optimizer=optimizer, variables=[w])
    begin = distopt.ray.restore(checkpointer) or 0
    (folder / f"began after {begin} with {distopt.num_replicas()}").touch()
    for step in range(begin, 6):
        optimizer.apply_gradients([(np.ones(1000, "float32"), w)])
        distopt.ray.report({"step": step, "count": distopt.num_replicas()}, checkpointer)
        while step == 2 and distopt.num_replicas() == 4:
            distopt.barrier()  # until the node goes

def remove():
    while not (folder / "checkpoints" / "step-00000003").exists():
        time.sleep(0.05)
    time.sleep(3)
    cluster.remove_node(nodes[0], allow_graceful=False)

threading.Thread(target=remove, daemon=True).start()
result = distopt.ray.DistoptTrainer(
    loop,
    scaling_config=ScalingConfig(num_workers=(1, 4)),
    run_config=RunConfig(storage_path=str(folder / "storage"), failure_config=FailureConfig(max_failures=2)),
).fit()
print("metrics", result.metrics, flush=True)
ray.shutdown()
"""


def test_when_a_node_goes_training_goes_on_with_fewer_replicas(tmp_path):
    result = script(ELASTIC, "2,2", str(tmp_path))
    assert result.status == 0, result.text
    began = sorted(path.name for path in tmp_path.glob("began *"))
    assert began == ["began after 0 with 4", "began after 3 with 2"]
    assert "'step': 5, 'count': 2" in result.output
