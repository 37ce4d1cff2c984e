"""What the tests of checkpoints share."""

import random

import numpy as np

from distopt.checkpoint import Checkpointer


def step(optimizer, *variables):
    optimizer.apply_gradients([(np.ones(v.shape, v.dtype), v) for v in variables])


def saved(directory, **options):
    with Checkpointer(directory, **options) as checkpointer:
        checkpointer.save()


def steps_of(directory):
    return sorted(path.name for path in directory.iterdir())


def generators():
    numpy_kinds = [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64]
    seeded = [np.random.Generator(kind(7)) for kind in numpy_kinds]
    return [*seeded, np.random.RandomState(7), random.Random(7), random, np.random]
