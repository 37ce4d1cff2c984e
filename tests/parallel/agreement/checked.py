"""What the tests of divergence share: steps whose state is compared, and what is said of them."""

import numpy as np

import distopt
from distopt import Checks, Strategy, Variable
from distopt.errors import DivergedError
from distopt.optimizers import Adam, legacy

FAMILIES = {
    "Adam": lambda **k: Adam(0.1, **k),
    "legacy Adam": lambda **k: legacy.Adam(0.1, **k),
    "legacy momentum": lambda **k: legacy.SGD(0.1, momentum=0.9, **k),
}


def index():
    return distopt.replica_index()


def checked(fn, *args, update="replicated", **checks):
    """Call a function under a strategy that checks the state before every step, unless told otherwise."""
    checks = Checks(**{"state_every": 1, **checks})
    with Strategy(distopt.get_strategy().communicator, update=update, checks=checks).scope():
        return fn(*args)


def variables():
    shapes = {"a": (7,), "b": (5, 3), "c": (11,)}
    return [Variable(np.full(shape, 0.5, "f4"), name=name) for name, shape in shapes.items()]


def steps(optimizer, chosen, count):
    for _ in range(count):
        rng = np.random.default_rng([int(optimizer.iterations.numpy()), index()])
        optimizer.apply_gradients([(rng.normal(size=v.shape).astype(v.dtype), v) for v in chosen])


def digest(optimizer, chosen):
    return distopt.digest([*chosen, *optimizer.get_weights()])


def assert_found(outcomes, before, name):
    """All replicas have the same DivergedError, of this step and first variable."""
    texts = {failure.text for failure in outcomes}
    assert {failure.kind for failure in outcomes} == {DivergedError}
    assert len(texts) == 1
    (text,) = texts
    assert text.startswith(f"before step {before} ")
    assert f"{name!r}" in text
    assert "Restore the last checkpoint" in text
    return text
