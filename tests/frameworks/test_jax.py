"""The JAX adapter: the same steps for any number of replicas, nothing aliased, and no mistake that passes silently."""

import re
import sys
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT, load_example, run, run_replicas

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402 (jax may be missing)
import optax  # noqa: E402

import distopt  # noqa: E402
from distopt.adapters.jax import DistributedOptimizer  # noqa: E402
from distopt.optimizers import SGD, Adam, legacy  # noqa: E402

EXAMPLE = ROOT / "examples" / "digits_jax.py"


OPTIMIZERS = {
    "SGD": lambda: SGD(0.1, momentum=0.9, global_clipnorm=1.0),
    "Adam": lambda: Adam(0.05),
    "legacy SGD": lambda: legacy.SGD(0.1, momentum=0.9, nesterov=True),
    "legacy Adam": lambda: legacy.Adam(0.05, clipnorm=1.0),
}


DATA = np.random.default_rng(0)


X = DATA.normal(size=(23, 4)).astype(np.float32)


Y = np.tanh(X @ DATA.normal(size=(4, 2)).astype(np.float32))


def make_params():
    random = np.random.default_rng(1)
    return {"dense": {"kernel": random.normal(size=(4, 2)).astype("f4"), "bias": np.zeros(2, "f4")}, "scale": 1.0}


def summed_loss(params, x, y):
    predicted = jnp.tanh(x @ params["dense"]["kernel"] + params["dense"]["bias"]) * params["scale"]
    return jnp.sum((predicted - y) ** 2)


gradients_of = jax.jit(jax.grad(summed_loss))


def leaves(params):
    return [np.array(leaf) for leaf in jax.tree.leaves(params)]


def my_part():
    """Uneven shares; with more than four replicas the last has no example."""
    cuts = np.linspace(0, len(X), distopt.num_replicas() + (distopt.num_replicas() <= 4)).astype(int)
    begin, end = [*cuts, len(X)][distopt.replica_index() :][:2]
    return X[begin:end], Y[begin:end]


def train(make_optimizer, part=my_part, steps=5):
    optimizer = DistributedOptimizer(make_params(), make_optimizer())
    params, history = optimizer.params, []
    for _ in range(steps):
        x, y = part()
        params = optimizer.update(gradients_of(params, x, y), items=len(x))
        history.append(leaves(params))
    return history


# The same steps


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_replicas_do_the_steps_of_one_on_the_joined_batch(replicas, make_optimizer):
    alone = train(make_optimizer, part=lambda: (X, Y))
    apart = replicas(train, make_optimizer)
    for history in apart:
        for step, wanted in zip(history, alone, strict=True):
            for a, b in zip(step, wanted, strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    for step in zip(*apart, strict=True):
        assert len({distopt.digest(params) for params in step}) == 1


def test_the_shares_are_uneven_and_hold_each_example_once(replicas):
    shares = replicas(lambda: len(my_part()[0]))
    assert sum(shares) == len(X)
    assert (min(shares) == 0) == (replicas.count > 4)


def test_the_steps_are_those_of_optax_on_the_joined_batch(several):
    params = jax.tree.map(jnp.float32, make_params())
    rival = optax.sgd(0.1, momentum=0.9)
    state = rival.init(params)
    for _ in range(5):
        mean = jax.tree.map(lambda g: g / len(X), gradients_of(params, X, Y))
        updates, state = rival.update(mean, state)
        params = optax.apply_updates(params, updates)
    for history in several(train, lambda: SGD(0.1, momentum=0.9)):
        for ours, theirs in zip(history[-1], leaves(params), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_without_items_gradients_are_summed():
    def step():
        optimizer = DistributedOptimizer(jnp.zeros(2), SGD(1.0))
        return np.array(optimizer.update(jnp.ones(2) * (1 + distopt.replica_index())))

    for params in distopt.simulate(3, step):
        np.testing.assert_array_equal(params, [-6.0, -6.0])


def test_all_replicas_begin_with_the_parameters_of_replica_0():
    def begin(broadcast):
        communicator = distopt.get_strategy().communicator
        with distopt.Strategy(communicator, broadcast=broadcast).scope():
            optimizer = DistributedOptimizer({"w": jnp.full(3, distopt.replica_index() + 1.0)}, SGD())
            return optimizer.params["w"].tolist()

    assert distopt.simulate(3, begin, True) == [[1.0] * 3] * 3
    assert distopt.simulate(3, begin, False) == [[1.0] * 3, [2.0] * 3, [3.0] * 3]


def test_the_compiled_function_is_traced_once():
    traced = []

    @jax.jit
    def gradient(params):
        traced.append(params)
        return jax.grad(lambda p: jnp.sum(p["w"] ** 2) * p["scale"])(params)

    optimizer = DistributedOptimizer({"w": jnp.ones(3), "scale": 2.0}, Adam())
    params = optimizer.params
    for _ in range(3):
        params = optimizer.update(gradient(params))
    assert len(traced) == 1
    assert not params["scale"].weak_type


# Nothing is aliased


@pytest.mark.parametrize("size", [1, 16, 1000, 100_000, 1 << 20])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_stay_what_they_were(size, dtype):
    given = np.ones(size, dtype)
    optimizer = DistributedOptimizer([given], SGD(0.5))
    history = [optimizer.params]
    given[:] = 7
    history += [optimizer.update([jnp.ones(size, dtype)]) for _ in range(3)]
    for params, wanted in zip(history, [1.0, 0.5, 0.0, -0.5], strict=True):
        assert set(np.unique(np.asarray(params[0], np.float32))) == {wanted}
    assert (given == 7).all()


@pytest.mark.parametrize("array", [jnp.array, np.array], ids=["jax", "numpy"])
def test_gradients_are_not_changed(array):
    given = array(np.full(100_000, 3, np.float32))
    optimizer = DistributedOptimizer([np.zeros(100_000, np.float32)], SGD(1.0, clipnorm=1.0))
    first = optimizer.update([given])
    optimizer.update([given], items=jnp.int32(5))
    assert (np.asarray(given) == 3).all()
    assert len(np.unique(first[0])) == 1


def test_parameters_that_are_donated_are_gone_for_jax_only():
    optimizer = DistributedOptimizer([jnp.zeros(1 << 16)], SGD(1.0))
    for _ in range(3):
        params = optimizer.update([jnp.ones(1 << 16)])
        jax.jit(lambda p: jax.tree.map(lambda x: x * 100, p), donate_argnums=0)(params)
    assert set(np.unique(optimizer.params[0])) == {-3.0}


# What a pytree may hold


class Layer(NamedTuple):
    kernel: jax.Array
    bias: jax.Array | None


def test_the_structure_is_kept_and_names_are_paths():
    params = ({"b": [jnp.ones(2)], "a": Layer(jnp.zeros((2, 3)), None)}, None)
    optimizer = DistributedOptimizer(params, Adam())
    updated = optimizer.update(jax.tree.map(jnp.ones_like, params))
    assert jax.tree.structure(updated) == jax.tree.structure(params)
    assert [v.name for v in optimizer.variables] == ["params[0]['a'].kernel", "params[0]['b'][0]"]
    assert DistributedOptimizer(jnp.ones(2), Adam()).variables[0].name == "params"


def pytrees():
    shapes = st.lists(st.integers(0, 3), max_size=2).map(tuple)
    arrays = st.tuples(shapes, st.integers(0, 99)).map(
        lambda drawn: np.random.default_rng(drawn[1]).normal(size=drawn[0]).astype(np.float32)
    )
    return st.recursive(
        arrays | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab'", max_size=2), inner, max_size=3),
        max_leaves=6,
    ).filter(jax.tree.leaves)


@given(params=pytrees())
@settings(max_examples=60)
def test_any_pytree_of_arrays_does_the_step_of_each_array(params):
    updated = DistributedOptimizer(params, SGD(0.5)).update(jax.tree.map(lambda p: jnp.asarray(p) * 3, params))
    wanted = jax.tree.map(lambda p: p - np.float32(0.5) * (p * np.float32(3)), params)
    assert jax.tree.structure(updated) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(updated), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.float32


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("make_optimizer", [Adam, legacy.SGD], ids=["Adam", "legacy SGD"])
def test_each_dtype_is_kept(dtype, make_optimizer):
    optimizer = DistributedOptimizer({"w": jnp.ones((3, 2), dtype), "v": jnp.ones(3)}, make_optimizer(0.5))
    params = optimizer.update(jax.tree.map(jnp.ones_like, optimizer.params))
    assert params["w"].dtype == dtype
    np.testing.assert_allclose(np.asarray(params["w"], np.float32), 0.5, rtol=1e-2)


def test_float64_is_what_jax_makes_of_it():
    assert DistributedOptimizer(np.ones(2), SGD()).params.dtype == np.float32
    with jax.enable_x64(True):
        optimizer = DistributedOptimizer(np.ones(2), SGD(1e-12))
        params = optimizer.update(jnp.ones(2))
    assert params.dtype == np.float64
    np.testing.assert_array_equal(params, np.float64(1) - 1e-12)


# The example


@pytest.fixture(scope="module")
def example():
    return load_example(EXAMPLE)


@pytest.fixture(scope="module")
def simulated(example):
    """The results of two simulated replicas."""
    return distopt.simulate(2, example.train)


def table(result):
    assert result.status == 0, result.text
    rows = re.findall(r"^(\w[\w ]*?) {2,}(.+)$", result.output, re.MULTILINE)
    return {name: value.strip() for name, value in rows}


def test_the_example_learns_the_digits():
    rows = table(run([sys.executable, EXAMPLE]))
    assert list(rows) == ["loss", "test accuracy", "replicas", "parameter digest"]
    assert float(rows["test accuracy"].removesuffix(" %")) >= 97
    assert len(EXAMPLE.read_text().splitlines()) < 70


@pytest.mark.parametrize("mode", ["replicated", "shared"])
def test_mpi_and_simulated_replicas_end_with_the_same_bits(simulated, mode):
    rows = table(run_replicas(2, EXAMPLE, env={"DISTOPT_UPDATE": mode}))
    assert {rows["parameter digest"]} == {result["parameter digest"] for result in simulated}
    assert rows["replicas"] == "2"


def test_the_loss_does_not_depend_on_the_number_of_replicas(example):
    alone = example.train(epochs=3)["loss"]
    for count in (2, 5):
        results = distopt.simulate(count, example.train, epochs=3)
        np.testing.assert_allclose([result["loss"] for result in results], alone, rtol=1e-4)
