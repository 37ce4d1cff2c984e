"""What holds for every row of the table of optimizers: formulas, convergence, dtypes, config, copies, state."""

import copy
import inspect
import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from optimizer_table import FAMILIES, ROWS

from distopt import IndexedSlices, Variable, digest

EXEMPT = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer", "OptimizerMap"}
"""Bases and wrappers, which have tests of their own."""
SHAPES = {"tall": (4, 3), "wide": (2, 5), "embedding": (3, 2), "cube": (2, 3, 2), "vector": (3,), "scalar": ()}
STEPS = 12

each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)

# A row's patterns are for the variables of some tests only.
pytestmark = pytest.mark.filterwarnings("ignore:.*exclude_layers.*fit no variable")


def variables(dtype=np.float64):
    rng = np.random.default_rng(0)
    return [Variable(rng.normal(size=shape), name=name, dtype=dtype) for name, shape in SHAPES.items()]


def gradients(chosen, step):
    rng = np.random.default_rng([1, step])
    return [rng.normal(size=v.shape).astype(v.dtype) for v in chosen]


def train(optimizer, chosen, steps):
    for k in steps:
        optimizer.apply_gradients(zip(gradients(chosen, k), chosen, strict=True))


def assert_near(chosen, oracles, tolerance):
    for v, oracle in zip(chosen, oracles, strict=True):
        np.testing.assert_allclose(
            v.numpy().astype(float), oracle.value, rtol=tolerance, atol=tolerance, err_msg=v.name
        )


def state(optimizer):
    return optimizer.weights if hasattr(optimizer, "weights") else optimizer.variables


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_has_every_optimizer(family):
    module = FAMILIES[family]
    exported = {name for name in module.__all__ if isinstance(getattr(module, name), type)}
    assert {row.name for row in ROWS if row.family == family} == exported - EXEMPT


def test_no_two_rows_are_called_alike():
    assert len({row.id for row in ROWS}) == len(ROWS)


@each_row
def test_dense_steps_are_those_of_the_formula(row):
    chosen = variables()
    optimizer, oracles = row.make(), row.oracles(chosen)
    for k in range(STEPS):
        train(optimizer, chosen, [k])
        for oracle, gradient in zip(oracles, gradients(chosen, k), strict=True):
            oracle.step(gradient)
    assert_near(chosen, oracles, 1e-10)
    assert int(optimizer.iterations) == STEPS


@each_row
def test_sparse_steps_are_those_of_the_formula(row):
    rng = np.random.default_rng(2)
    table = Variable(rng.normal(size=(6, 2)))
    optimizer, (oracle,) = row.make(), row.oracles([table])
    for named in [[3, 1, 3], [0], [], [5, 5], [1, 0, 3, 0]] * 2:
        values = rng.normal(size=(len(named), 2))
        optimizer.apply_gradients([(IndexedSlices(values, np.array(named, np.int64), (6, 2)), table)])
        oracle.step({r: values[np.array(named) == r].sum(axis=0) for r in named})
    assert_near([table], [oracle], 1e-10)


@pytest.mark.parametrize("row", [row for row in ROWS if not row.variant], ids=lambda row: row.id)
def test_the_defaults_are_those_of_keras(row):
    ours, wanted = row.cls().get_config(), {}
    for cls in reversed(row.oracle.__mro__[:-1]):
        wanted |= {name: each.default for name, each in inspect.signature(cls).parameters.items()}
    compared = (set(ours) & set(wanted)) - {"name", "decay"}
    assert compared >= {"learning_rate"}
    for name in compared:
        assert ours[name] == pytest.approx(wanted[name], rel=1e-7) if wanted[name] else not ours[name], name


@each_row
def test_it_converges(row):
    scale, target = np.array([[1.0, 0.5], [0.25, 1.0], [0.75, 0.5]]), np.array([[1.0, 0.5], [-0.5, 0.75], [0.25, -1.0]])
    x = Variable(np.zeros((3, 2)) + 0.1)
    optimizer, losses = row.make(learning_rate=row.quick), []
    for _ in range(100):
        losses.append(float(np.sum(scale * (x.numpy() - target) ** 2)))
        optimizer.apply_gradients([(2 * scale * (x.numpy() - target), x)])
    assert losses[-1] < losses[0] / 20


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@each_row
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32], ids=["float16", "bfloat16", "float32"])
def test_narrower_dtypes_stay_near(row, dtype):
    chosen = variables(dtype)
    optimizer, oracles = row.make(), row.oracles(chosen)
    for k in range(STEPS):
        train(optimizer, chosen, [k])
        for oracle, gradient in zip(oracles, gradients(chosen, k), strict=True):
            oracle.step(gradient)
    assert_near(chosen, oracles, row.rounding * float(ml_dtypes.finfo(dtype).eps))
    assert {v.dtype for v in chosen} == {np.dtype(dtype)}


@each_row
def test_the_config_makes_the_same_optimizer(row):
    optimizer = row.make(clipnorm=0.5, name="mine")
    config = optimizer.get_config()
    twin = row.cls.from_config(json.loads(json.dumps(config)))
    assert twin.get_config() == config
    assert config.items() >= (row.arguments | {"clipnorm": 0.5, "name": "mine"}).items()
    x, y = variables(), variables()
    train(optimizer, x, range(3))
    train(twin, y, range(3))
    assert digest(x) == digest(y)


def copied(row, optimizer, chosen):
    return copy.deepcopy((chosen, optimizer))


def pickled(row, optimizer, chosen):
    return pickle.loads(pickle.dumps((chosen, optimizer)))


def made_anew(row, optimizer, chosen):
    twins, twin = [Variable(v.numpy(), name=v.name) for v in chosen], row.make()
    if row.family == "legacy":  # which makes slots in its first step
        train(twin, twins, [0])
        for v, w in zip(twins, chosen, strict=True):
            v.assign(w)
    else:
        twin.build(twins)
    twin.set_weights(optimizer.get_weights())
    return twins, twin


@each_row
@pytest.mark.parametrize("take", [copied, pickled, made_anew])
def test_it_goes_on_with_the_same_bits(row, take):
    chosen, optimizer = variables(), row.make()
    train(optimizer, chosen, range(3))
    twins, twin = take(row, optimizer, chosen)
    train(optimizer, chosen, range(3, 6))
    before = digest([*chosen, *state(optimizer)])
    train(twin, twins, range(3, 6))
    assert digest([*twins, *state(twin)]) == before == digest([*chosen, *state(optimizer)])
    assert int(twin.iterations) == 6
