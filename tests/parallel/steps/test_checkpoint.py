"""Stopping and going on changes no bit: every family, mode and placement; other numbers of replicas."""

import shutil

import numpy as np
import pytest
from parallel.steps.checkpointed import EXACT, OPTIMIZERS, STEPS, STOP, Run, stop, within

import distopt
from distopt import Variable
from distopt.aggregators import Aggregator, Sum
from distopt.checkpoint import Checkpointer
from distopt.data import batches
from distopt.errors import CheckpointError
from distopt.optimizers import SGD
from distopt.optimizers.common.access import counter_of
from distopt.testing import LocalReplica, SimulatedReplicas

MODES = ["replicated", "shared"]


def undisturbed(name):
    return Run(name, "/nowhere").train(STEPS).bits


def go_on(name, directory, until=STEPS):
    run = Run(name, directory)
    step = run.checkpointer.restore()
    return step, run.train(until).bits


@pytest.mark.parametrize("update", MODES)
@pytest.mark.parametrize("name", ["AMSGrad", "legacy momentum"])
def test_stop_and_resume_is_never_stopping(replicas, directory, name, update):
    expected = replicas(within, update, undisturbed, name)
    replicas(within, update, stop, name, directory)
    assert replicas(within, update, go_on, name, directory) == [(STOP, bits) for bits in expected]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on(tmp_path, name):
    replicas, update = SimulatedReplicas(3), "replicated" if name == "loss scale" else "shared"
    expected = replicas(within, update, undisturbed, name)
    replicas(within, update, stop, name, tmp_path)
    assert replicas(within, update, go_on, name, tmp_path) == [(STOP, bits) for bits in expected]


@pytest.mark.parametrize("name", ["AMSGrad", "legacy momentum"])
def test_on_several_nodes_and_from_one_mode_to_the_other(placed, directory, name):
    expected = placed(within, "replicated", undisturbed, name)
    for k, (before, after) in enumerate([("shared", "shared"), ("shared", "replicated"), ("replicated", "shared")]):
        placed(within, before, stop, name, directory / str(k))
        assert placed(within, after, go_on, name, directory / str(k)) == [(STOP, bits) for bits in expected]


@pytest.mark.parametrize("update", MODES)
def test_restoring_in_the_middle_of_a_run(placed, directory, update):
    def look():
        run = Run("AMSGrad", directory).train(STOP)
        run.checkpointer.save()
        numpy_state = run.bits  # draws, and so moves the random states on
        run.train(STOP + 4)
        homes = [v.value.ctypes.data for v in run.variables]
        assert run.checkpointer.restore() == STOP
        assert homes == [v.value.ctypes.data for v in run.variables]
        return numpy_state, run.bits, run.train(STEPS).bits

    expected = placed(within, update, undisturbed, "AMSGrad")
    for (before, after, end), final in zip(placed(within, update, look), expected, strict=True):
        assert before == after
        assert end[:3] != final[:3]  # `bits` has drawn once more
        assert end[2] == final[2]


# Another number of replicas: integers, whose sums are exact in any order


class Exact:
    """Training whose bits do not depend on the number of replicas."""

    def __init__(self, make, directory, **options):
        self.w = Variable(np.zeros((80, 120), np.float32), name="w")
        self.b = Variable(np.zeros(3, np.float64), name="b")
        self.optimizer = make()
        self.data = batches(np.arange(41), global_batch_size=6, epochs=3, seed=3)
        self.checkpointer = Checkpointer(
            directory, optimizer=self.optimizer, variables=[self.w, self.b], data=self.data, **options
        )
        self.seen = []

    def train(self, until=1000):
        for batch in self.data:
            examples = batch.arrays
            gradient = np.float32(np.outer(np.arange(80), np.arange(120)) % 7 * np.sum(examples % 5))
            self.optimizer.apply_gradients([(gradient, self.w), (np.full(3, float(examples.sum())), self.b)])
            gathered = distopt.all_gather(np.resize(np.append(examples, [-1] * 6), 6))
            self.seen.append([int(n) for row in gathered for n in row if n >= 0])
            self.checkpointer.save_every(4)
            if int(counter_of(self.optimizer)) == until:  # with accumulation, in the middle of a step
                break
        self.checkpointer.wait()
        return self.seen, distopt.digest([self.w, self.b]), [distopt.digest([w]) for w in self.optimizer.get_weights()]


@pytest.mark.parametrize("family", EXACT)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_another_number_of_replicas_continues_the_same_order(tmp_path, count, family):
    make = EXACT[family]

    def resume(update):
        run = Exact(make, tmp_path / update)
        assert run.checkpointer.restore() == 8
        return run.train()

    ((seen, *bits),) = LocalReplica()(lambda: Exact(make, tmp_path / "whole").train())
    SimulatedReplicas(3)(within, "shared", lambda: Exact(make, tmp_path / "shared").train(10))
    shutil.copytree(tmp_path / "shared", tmp_path / "replicated")
    for update in MODES:
        for seen_after, *bits_after in SimulatedReplicas(count)(within, update, resume, update):
            assert seen_after == seen[8:]
            assert bits_after == bits


def test_random_states_of_ones_own_need_the_same_number_of_replicas(tmp_path):
    def save(seed):
        v = Variable([1.0], name="v")
        with Checkpointer(tmp_path / str(seed), variables=[v], random=[np.random.default_rng(seed())]) as checkpointer:
            checkpointer.save()

    def resume(name):
        rng = np.random.default_rng(99)
        Checkpointer(tmp_path / name, variables=[Variable([0.0], name="v")], random=[rng]).restore()
        return rng.random()

    own, alike = distopt.replica_index, int
    SimulatedReplicas(2)(save, own)
    SimulatedReplicas(2)(save, alike)
    with pytest.raises(CheckpointError, match="2 replicas, each with random of its own, and there are 3 now"):
        SimulatedReplicas(3)(resume, str(own))
    assert SimulatedReplicas(2)(resume, str(own)) == [np.random.default_rng(seed).random() for seed in (0, 1)]
    assert SimulatedReplicas(3)(resume, str(alike)) == [np.random.default_rng(0).random()] * 3


class Kept(Aggregator):
    """An aggregator that remembers what this replica has sent."""

    def build(self, variables):
        self.memory = [Variable(np.zeros(v.shape, v.dtype), trainable=False) for v in variables]

    @property
    def variables(self):
        return self.memory

    def __call__(self, grads_and_vars):
        pairs = []
        for (gradient, variable), memory in zip(grads_and_vars, self.memory, strict=True):
            memory.assign_add(gradient)
            pairs.append((gradient + memory.numpy(), variable))
        return Sum()(pairs)


def test_the_aggregators_state_goes_back_to_its_replica(replicas, directory):
    def run(directory, stop, goes_on):
        v = Variable([0.0, 0.0], name="v")
        kept = Kept()
        optimizer = SGD(1.0, gradient_aggregator=kept)
        checkpointer = Checkpointer(directory, optimizer=optimizer, variables=[v])
        if goes_on:
            assert checkpointer.restore() == 3
        while int(optimizer.iterations) < stop:
            gradient = np.float32([1, 2]) * (distopt.replica_index() + int(optimizer.iterations))
            optimizer.apply_gradients([(gradient, v)])
        if not goes_on:
            checkpointer.save()
            checkpointer.wait()
        return v.numpy().tolist(), kept.memory[0].numpy().tolist()

    replicas(run, directory / "stopped", 3, False)
    resumed = replicas(run, directory / "stopped", 6, True)
    assert len({str(memory) for _, memory in resumed}) == replicas.count
    assert replicas(run, directory / "undisturbed", 6, False) == resumed
