"""What the JAX adapter refuses, and what it says to all replicas."""

import re
import sys

import numpy as np
import pytest
from support import run

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402 (jax may be missing)
import optax  # noqa: E402

import distopt  # noqa: E402
from distopt.adapters.jax import DistributedOptimizer  # noqa: E402
from distopt.errors import CollectiveMismatchError, InvalidArgumentError, ReplicaFailedError  # noqa: E402
from distopt.optimizers import SGD, Adam, legacy  # noqa: E402


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"n": jnp.arange(3)},
            r"params\['n'\] is int32\[3\]: optimizers train arrays of float64, float32, float16",
        ),
        ({"z": jnp.ones(2) * 1j}, r"params\['z'\] is complex64\[2\]"),
        ([1.0, jax.random.key(0)], r"params\[1\] is key<fry>\[\]: .* random keys"),
        ({"f": len}, r"params\['f'\] is builtin_function_or_method: optimizers train"),
        ({"on": True}, r"params\['on'\] is bool: "),
        ({}, r"params is \{\}, a pytree without leaves: there is nothing to train"),
        (None, "params is None, a pytree without leaves"),
    ],
)
def test_parameters_that_cannot_be_trained(params, message):
    with pytest.raises(InvalidArgumentError, match=message):
        DistributedOptimizer(params, Adam())


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        (
            {"w": jnp.ones(2)},
            r"structure PyTreeDef\({'w': \*}\), and the parameters' is PyTreeDef\({'b': \*, 'w': \*}\)",
        ),
        ((1.0, {"w": jnp.ones(2), "b": jnp.ones(())}), r"jax.value_and_grad gives the pair \(loss, gradients\)"),
        ({"w": jnp.ones(2), "b": None}, r"grads\['b'\] is None: every parameter needs a gradient. Pass jnp.zeros_like"),
        (
            {"w": jnp.ones(3), "b": jnp.ones(())},
            r"grads\['w'\] is float32\[3\] and params\['w'\] float32\[2\]: they must",
        ),
        ({"w": jnp.ones(2), "b": jnp.ones(1)}, r"grads\['b'\] is float32\[1\] and params\['b'\] float32\[\]"),
        ({"w": jnp.ones(2, "bfloat16"), "b": jnp.ones(())}, r"grads\['w'\] is bfloat16\[2\] .*astype\(param.dtype\)"),
        ({"w": jnp.ones(2, int), "b": jnp.ones(())}, r"grads\['w'\] is int32\[2\]"),
        ({"w": np.ones(2, jax.dtypes.float0), "b": jnp.ones(())}, r"grads\['w'\] is .*\[2\] and params"),
        ({"w": jnp.ones(2), "b": 1.0}, r"grads\['b'\] is float and params\['b'\] float32\[\]"),
    ],
)
@pytest.mark.parametrize("make_optimizer", [Adam, legacy.Adam], ids=["Adam", "legacy Adam"])
def test_gradients_that_do_not_fit(grads, message, make_optimizer):
    optimizer = DistributedOptimizer({"w": jnp.ones(2), "b": jnp.zeros(())}, make_optimizer())
    with pytest.raises(InvalidArgumentError, match=message):
        optimizer.update(grads)
    assert optimizer.params["w"].tolist() == [1.0, 1.0]
    optimizer.update(jax.tree.map(jnp.ones_like, optimizer.params))
    assert optimizer.params["w"][0] < 1


def test_a_deleted_gradient_is_refused():
    optimizer, gradient = DistributedOptimizer([jnp.ones(2)], SGD()), jnp.ones(2)
    gradient.delete()
    with pytest.raises(InvalidArgumentError, match=r"gradient of 'params\[0\]' .*deleted"):
        optimizer.update([gradient])


def test_a_step_inside_of_a_transformation_is_refused():
    optimizer = DistributedOptimizer({"w": jnp.ones(2)}, SGD())
    with pytest.raises(InvalidArgumentError, match=r"grads\['w'\] is traced: update was called inside of jax.jit"):
        jax.jit(optimizer.update)({"w": jnp.ones(2)})
    with pytest.raises(
        InvalidArgumentError, match=r"params is traced: DistributedOptimizer was called inside of jax.j"
    ):
        jax.jit(lambda w: DistributedOptimizer(w, SGD()).params)(jnp.ones(2))


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (optax.adam(1e-3), "received a transformation of optax, .*To keep it, sum them yourself"),
        (optax.chain(optax.clip(1.0), optax.sgd(0.1)), "received a transformation of optax"),
        (Adam, r"received the class Adam: make one of it, as in Adam\(\)"),
        ("adam", r"received 'adam'"),
    ],
)
def test_what_is_no_optimizer_of_distopt_is_refused(optimizer, message):
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        DistributedOptimizer(jnp.ones(2), optimizer)
    assert re.search(
        r"distopt.optimizers \(SGD, .*Adam.*\) or distopt.optimizers.legacy \(SGD, .*Adam", str(caught.value)
    )


def test_the_cure_for_optax_works():
    def step():
        params, rival = {"w": jnp.ones(3)}, optax.sgd(1.0)
        grads = jax.tree.map(distopt.all_reduce, {"w": jnp.full(3, distopt.replica_index() + 1.0)})
        updates, _ = rival.update(grads, rival.init(params))
        return optax.apply_updates(params, updates)["w"].tolist()

    assert distopt.simulate(3, step) == [[-5.0] * 3] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: {"w": jnp.ones(2 + r)}, r"replica 0: float32\[2\]\n.*replica 1: float32\[3\]"),
        (lambda r: {"wv"[r]: jnp.ones(2)}, r"replica 0: params\['w'\]: float32\[2\]\n.*replica 1: params\['v'\]"),
    ],
    ids=["shapes", "names"],
)
def test_replicas_with_different_parameters_say_so(make, message):
    def run():
        params = make(distopt.replica_index())
        with pytest.raises(CollectiveMismatchError, match=message):
            DistributedOptimizer(params, SGD()).update(params)
        return "raised"

    assert distopt.simulate(2, run) == ["raised", "raised"]


@pytest.mark.parametrize("when", ["construction", "update"])
def test_a_mistake_on_one_replica_ends_all(when):
    def run():
        is_wrong = distopt.replica_index() == 1
        params = [jnp.arange(2)] if is_wrong and when == "construction" else [jnp.ones(2)]
        with pytest.raises(InvalidArgumentError if is_wrong else ReplicaFailedError) as caught:
            DistributedOptimizer(params, SGD()).update([None] if is_wrong else [jnp.ones(2)])
        return str(caught.value)

    texts = distopt.simulate(3, run)
    assert texts[1] in texts[0]
    assert texts[1] in texts[2]


def test_without_jax_the_extra_is_named():
    script = (
        "import sys, distopt; assert 'jax' not in sys.modules; sys.modules['jax'] = None; import distopt.adapters.jax"
    )
    result = run([sys.executable, "-c", script])
    assert "MissingExtraError: distopt.adapters.jax needs jax, which is not installed" in result.errors
    assert "pip install 'distopt[jax]'" in result.errors
