"""Actors that are made replicas, and what they train."""

import os

import numpy as np
import ray

import distopt
import distopt.ray


def train(size=1000, steps=4):
    """A few steps on gradients of this replica's own; returns the digest of the parameters."""
    random = np.random.default_rng(distopt.replica_index())
    gradients = random.normal(size=(steps, size)).astype("float32")
    w = distopt.Variable(np.zeros(size, "float32"), name="w")
    optimizer = distopt.optimizers.Adam(0.1)
    for gradient in gradients:
        optimizer.apply_gradients([(gradient, w)])
    return distopt.digest([w])


@ray.remote(num_cpus=1)
class Actor:
    """A process that can be made a replica, again and again."""

    def pid(self):
        return os.getpid()

    def call(self, fn, *args):
        return fn(*args)

    def replica(self, index, count, name, fn, *args):
        with distopt.ray.init_group(index, count, name):
            return fn(*args)

    def in_the_default_group(self, index, count, fn, *args):
        with distopt.ray.init_group(index, count):
            return fn(*args)
