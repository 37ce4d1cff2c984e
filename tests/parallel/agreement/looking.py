"""What the tests of sums that are not finite share: steps, and what is said of them."""

import numpy as np

import distopt
from distopt import Checks, Strategy, Variable

LARGE = 36_000
"""Elements: every one of eight replicas owns a part."""


MODES = ["replicated", "shared"]


LIMITS = [{}, {"clipvalue": 0.5}, {"clipnorm": 1.0}, {"global_clipnorm": 1.0}]


LIMIT_NAMES = ["none", "clipvalue", "clipnorm", "global_clipnorm"]


def index():
    return distopt.replica_index()


def looking(fn, *args, update="replicated", on_nonfinite="raise"):
    """Call a function under a strategy that looks at the sums."""
    checks = Checks(on_nonfinite=on_nonfinite)
    with Strategy(distopt.get_strategy().communicator, update=update, checks=checks).scope():
        return fn(*args)


def variables(dtype="float32"):
    return [Variable(np.full(n, 0.5), name=f"v{n}", dtype=dtype) for n in (5, LARGE)]


def good(k, chosen):
    rng = np.random.default_rng([k, index()])
    return [(rng.random(v.shape, "f4") - 0.5).astype(v.dtype) for v in chosen]


def step(optimizer, gradients, chosen, **options):
    optimizer.apply_gradients(list(zip(gradients, chosen, strict=True)), **options)


def state(optimizer, chosen):
    return distopt.digest([*chosen, *optimizer.get_weights()]), int(optimizer.iterations.numpy())


def two_good_steps(make, dtype="float32"):
    """The state after the two good steps of ``around``."""
    chosen, optimizer = variables(dtype), make()
    step(optimizer, good(0, chosen), chosen)
    step(optimizer, good(1, chosen), chosen)
    return state(optimizer, chosen)
