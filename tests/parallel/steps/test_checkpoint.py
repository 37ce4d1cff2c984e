"""Stopping and going on changes no bit: every family, mode and placement; other numbers of replicas."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from parallel.caught import caught, warned

import distopt
from distopt import IndexedSlices, Strategy, Variable
from distopt.aggregators import Aggregator, Sum
from distopt.checkpoint import Checkpointer
from distopt.data import batches
from distopt.errors import CheckpointError, CollectiveMismatchError, DamagedOptimizerError
from distopt.optimizers import SGD, Adam, LossScaleOptimizer, legacy
from distopt.optimizers.common.access import counter_of
from distopt.optimizers.schedules import CosineDecay, ExponentialDecay
from distopt.testing import LocalReplica, SimulatedReplicas

OPTIMIZERS = {
    "accumulation": lambda: SGD(0.1, momentum=0.9, gradient_accumulation_steps=2),
    "momentum": lambda: SGD(CosineDecay(0.1, 20), momentum=0.9, nesterov=True),
    "Adam": lambda: Adam(0.01, global_clipnorm=3.0, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=3),
    "loss scale": lambda: LossScaleOptimizer(Adam(0.01), initial_scale=4.0, dynamic_growth_steps=2),
    "AMSGrad": lambda: Adam(ExponentialDecay(0.02, 5, 0.9), amsgrad=True, master_weights=True),
    "legacy SGD": lambda: legacy.SGD(0.1),
    "legacy momentum": lambda: legacy.SGD(ExponentialDecay(0.1, 5, 0.9), momentum=0.9),
    "legacy AMSGrad": lambda: legacy.Adam(0.01, amsgrad=True, decay=0.1),
}
MODES = ["replicated", "shared"]
STEPS, STOP = 14, 5  # an epoch has seven steps


@pytest.fixture
def directory(request, tmp_path):
    """One directory for all replicas."""
    fixture = next((f for f in ("replicas", "several", "placed") if f in request.fixturenames), None)
    return tmp_path if fixture is None else Path(request.getfixturevalue(fixture)(lambda: str(tmp_path))[0])


class Run:
    """Training whose gradients depend on the examples, on the replica's random numbers and on the step."""

    def __init__(self, name, directory, *, variables_first=True):
        start = np.random.default_rng(0)
        self.variables = [
            Variable(start.normal(size=shape), dtype=dtype, name=f"{dtype} {k}")
            for k, (shape, dtype) in enumerate(
                [((90, 110), "float32"), ((), "float64"), ((30, 4), "float32"), ((70, 3), "bfloat16")]
            )
        ]
        self.optimizer = OPTIMIZERS[name]()
        self.data = batches(np.arange(27), global_batch_size=4, epochs=2, seed=1)
        self.random = np.random.default_rng([5, distopt.replica_index()]), random.Random(distopt.replica_index())
        self.checkpointer = Checkpointer(
            directory,
            optimizer=self.optimizer,
            variables=self.variables if variables_first else None,
            data=self.data,
            random=self.random,
        )

    def train(self, until, every=1000):
        for batch in self.data:
            self.optimizer.apply_gradients(zip(self.gradients(batch.arrays), self.variables, strict=True))
            self.checkpointer.save_every(every)
            if int(counter_of(self.optimizer)) == until:  # with accumulation, in the middle of a step
                break
        return self

    def gradients(self, examples):
        numpy_random, python_random = self.random
        scale = examples.sum() / 50 + python_random.random()
        for k, variable in enumerate(self.variables):
            if k == 2:
                rows = numpy_random.integers(0, 30, 5)
                yield IndexedSlices(np.float32(scale * numpy_random.normal(size=(5, 4))), rows, (30, 4))
            else:
                yield np.asarray(scale * numpy_random.normal(size=variable.shape)).astype(variable.dtype)

    @property
    def bits(self):
        numpy_random, python_random = self.random
        drawn = float(numpy_random.normal()), python_random.random()
        state = [distopt.digest([array]) for array in self.optimizer.get_weights()]
        return distopt.digest(self.variables), state, int(self.optimizer.iterations), drawn


def within(update, fn, *args):
    with Strategy(distopt.get_strategy().communicator, update=update).scope():
        return fn(*args)


def undisturbed(name):
    return Run(name, "/nowhere").train(STEPS).bits


def stop(name, directory, at=STOP):
    with Run(name, directory, variables_first=False).train(at).checkpointer as checkpointer:
        checkpointer.save()


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


EXACT = {"Keras 3": lambda: SGD(0.5, momentum=0.5), "legacy": lambda: legacy.SGD(0.5, momentum=0.5)}


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


# Agreement


def test_saving_on_one_replica_only_is_an_error_everywhere(several, directory):
    def save():
        v = Variable([1.0], name="v")
        checkpointer = Checkpointer(directory, variables=[v])
        return caught(checkpointer.save if distopt.replica_index() == 0 else distopt.barrier)

    for failure in several(save):
        assert failure.kind is CollectiveMismatchError
        assert "call: replica 0: Checkpointer.save" in failure.text
    assert not list(directory.iterdir())


def test_states_that_differ_are_no_checkpoint(several, directory):
    def save():
        v, w = Variable([1.0], name="v"), Variable([distopt.replica_index()], name="w")
        checkpointer = Checkpointer(directory, variables=[v, w])
        failure = caught(checkpointer.save)
        distopt.broadcast([w])
        checkpointer.save()
        checkpointer.wait()
        return failure

    for failure in several(save):
        assert failure.kind is CheckpointError
        assert "replica 1 has other values than replica 0, first in 'variables/w'" in failure.text
    assert [path.name for path in directory.iterdir()] == ["step-00000002"]


def test_a_bad_file_sends_all_replicas_back_to_the_same_step(replicas, directory):
    def save():
        v = Variable(np.arange(9000.0), name="v")
        with Checkpointer(directory, variables=[v]) as checkpointer:
            for _ in range(3):
                v.assign_add(np.ones(9000))
                checkpointer.save()

    def restore():
        v = Variable(np.zeros(9000), name="v")
        return Checkpointer(directory, variables=[v]).restore(), float(v.numpy()[8000])

    replicas(save)
    if distopt.replica_index() == 0:
        path = directory / "step-00000003" / f"part-{replicas.count - 1:05}.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    replicas(distopt.barrier)
    results, messages = warned(replicas, restore)
    assert results == [(2, 8002.0)] * replicas.count
    assert len(messages) == 1
    assert "went back to step 2, for the checkpoint of step 3 is damaged" in messages[0]
    assert f"part-{replicas.count - 1:05}.safetensors has the checksum" in messages[0]


@pytest.mark.parametrize("family", EXACT)
def test_a_damaged_optimizer_is_good_again_after_a_restore(replicas, directory, family):
    def run():
        v = Variable([1.0, 2.0], name="v")
        fails = []

        def transformer(pairs):
            if fails:
                raise ValueError("boom")
            return pairs

        make = {"Keras 3": SGD, "legacy": legacy.SGD}[family]
        optimizer = make(0.5, momentum=0.5, gradient_transformers=[transformer])
        checkpointer = Checkpointer(directory, optimizer=optimizer)
        optimizer.apply_gradients([([1.0, 1.0], v)])
        checkpointer.save()
        bits = [distopt.digest([v]), *map(str, optimizer.get_weights())]
        fails.append(True)
        broken = caught(optimizer.apply_gradients, [([1.0, 1.0], v)])
        fails.clear()
        distopt.barrier()
        damaged = caught(optimizer.apply_gradients, [([1.0, 1.0], v)])
        cannot_save = caught(checkpointer.save)
        assert checkpointer.restore() == 1
        assert bits == [distopt.digest([v]), *map(str, optimizer.get_weights())]
        optimizer.apply_gradients([([1.0, 1.0], v)])
        return broken.kind, damaged.kind, cannot_save.kind, int(optimizer.iterations)

    expected = (ValueError, DamagedOptimizerError, DamagedOptimizerError, 2)
    assert replicas(run) == [expected] * replicas.count


def test_files_hold_each_replicas_part_once(placed, directory):
    placed(within, "shared", stop, "AMSGrad", directory)
    manifest = json.loads((directory / f"step-{STOP:08}" / "manifest.json").read_text())["manifest"]
    sizes = [sum(end - begin for _, begin, end in file["pieces"]) for file in manifest["files"]]
    total = sum(int(np.prod(entry["shape"])) for entry in manifest["variables"].values())
    assert sum(sizes) == total
    assert len(sizes) == placed.count
    assert sum(size > 0 for size in sizes) >= 2
