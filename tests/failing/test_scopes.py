"""Scopes that not all replicas enter, under real launchers: all are told soon, and by name; and two threads train."""

import pytest
from support import run_replicas

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1", "DISTOPT_DEADLINES": "warn=1"}
BEGIN = """
import distopt
from distopt import Strategy
from distopt.distribute import MPICommunicator
first = distopt.replica_index() == 0
def scoped():
    with Strategy(MPICommunicator()).scope():
        distopt.all_reduce(1.0)
"""
DIFFERENT = {
    "a scope on one replica only": (
        "scoped() if first else distopt.all_reduce(1.0)",
        ["strategy: replica 0: one that the script made", "strategy: replica 1: the job's, outside of every scope"],
    ),
    "a scope on one replica only, later": (
        "distopt.barrier(); scoped() if first else distopt.all_reduce(1.0)",
        ["in different strategies: replica 0 in first agreement", "replica 1 in all_reduce", "enter the same scopes"],
    ),
    "one call more outside of the scope": (
        "scoped()\nif first: distopt.all_reduce(1.0)",
        ["ReplicaLeftError: replica 1 of 2 has ended"],
    ),
    "one call more inside of a scope": (
        "scoped(); distopt.barrier()\nif first: scoped()",
        ["ReplicaLeftError: replica 1 of 2 has ended", "in a strategy that it never used"],
    ),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_a_scope_that_others_have_not_entered_is_told(kind):
    script, texts = DIFFERENT[kind]
    result = run_replicas(2, BEGIN + script, env=ENVIRONMENT, timeout=30)
    assert result.status not in (0, None), result.text
    for text in texts:
        assert text in result.errors, result.text


THREADS = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np, distopt
from distopt import Strategy, Variable
from distopt.distribute import MPICommunicator
from mpi4py import MPI
world = MPI.COMM_WORLD
comms = [world.Dup(), world.Dup()]
def train(number):
    with Strategy(MPICommunicator(comms[number]), update=["replicated", "shared"][number]).scope():
        w, b = Variable(distopt.initializers.RandomUniform()((30, 20))), Variable(np.zeros(20, "float32"))
        optimizer = [distopt.optimizers.Adam, distopt.optimizers.legacy.Adam][number](0.1)
        for batch in distopt.data.batches(np.ones((12, 30), "float32"), global_batch_size=4 - number, epochs=9):
            with distopt.GradientTape() as tape:
                loss = distopt.losses.MeanSquaredError()(np.zeros((batch.items, 20), "float32"), batch.arrays @ w + b)
            optimizer.apply_gradients(zip(tape.gradient(loss, [w, b]), [w, b]))
        return w.name, distopt.digest([w, b])
order = (0, 1) if distopt.replica_index() else (1, 0)
with ThreadPoolExecutor(2) as threads:
    begun = {number: threads.submit(train, number) for number in order}
results = [begun[number].result() for number in (0, 1)]
one_after_the_other = []
for number in (0, 1):
    with ThreadPoolExecutor(1) as thread:
        one_after_the_other.append(thread.submit(train, number).result())
assert results == one_after_the_other, (results, one_after_the_other)
print(results)
"""


def test_two_threads_with_a_strategy_over_a_duplicate_each_train_side_by_side():
    result = run_replicas(2, THREADS, env=ENVIRONMENT | {"DISTOPT_DEADLINES": ""})
    assert result.status == 0, result.text
    first, second = (line for line in result.output.splitlines() if line)
    assert first == second
    assert "began with other values" not in result.errors
