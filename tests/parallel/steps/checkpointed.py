"""Runs that save and go on, which the tests of checkpoints share."""

import random

import numpy as np

import distopt
from distopt import IndexedSlices, Strategy, Variable
from distopt.checkpoint import Checkpointer
from distopt.data import batches
from distopt.optimizers import SGD, Adam, LossScaleOptimizer, legacy
from distopt.optimizers.common.access import counter_of
from distopt.optimizers.schedules import CosineDecay, ExponentialDecay

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


STEPS, STOP = 14, 5  # an epoch has seven steps


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


def stop(name, directory, at=STOP):
    with Run(name, directory, variables_first=False).train(at).checkpointer as checkpointer:
        checkpointer.save()


EXACT = {"Keras 3": lambda: SGD(0.5, momentum=0.5), "legacy": lambda: legacy.SGD(0.5, momentum=0.5)}
