"""Train a small network on handwritten digits in JAX.

python examples/digits_jax.py                    one process
mpirun -n 4 python examples/digits_jax.py        four replicas
distopt.simulate(4, train)                       the same in one process
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import distopt
from distopt.adapters.jax import DistributedOptimizer


def predict(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["weights"] + layer["biases"])
    return x @ params[-1]["weights"] + params[-1]["biases"]


def summed_loss(params, x, y):
    log_probabilities = jax.nn.log_softmax(predict(params, x))
    return -jnp.sum(jnp.take_along_axis(log_probabilities, y[:, None], axis=1))


loss_and_gradients = jax.jit(jax.value_and_grad(summed_loss))


def make_params(sizes, seed=0):
    random = np.random.default_rng(seed)
    return [
        {"weights": random.normal(0, (2 / n) ** 0.5, (n, units)).astype(np.float32), "biases": np.zeros(units, "f4")}
        for n, units in itertools.pairwise(sizes)
    ]


def train(epochs=15):
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x, y = (images[order] / 16).astype(np.float32), labels[order].astype(np.int32)
    (x, x_test), (y, y_test) = np.split(x, [-360]), np.split(y, [-360])

    optimizer = DistributedOptimizer(make_params([64, 128, 10]), distopt.optimizers.Adam(0.003))
    params = optimizer.params
    losses = []
    for batch in distopt.data.batches((x, y), global_batch_size=128, epochs=epochs):
        loss, gradients = loss_and_gradients(params, *batch.arrays)  # sums over this replica's share of the batch
        params = optimizer.update(gradients, items=batch.items)  # divided by the items of all replicas
        losses.append(float(loss))

    right = jnp.argmax(predict(params, x_test), axis=1) == y_test
    steps = len(losses) // epochs
    return {
        "loss": float(distopt.all_reduce(np.array(losses[-steps:]).sum())) / len(x),
        "test accuracy": f"{float(right.mean()) * 100:.1f} %",
        "replicas": distopt.num_replicas(),
        "parameter digest": distopt.digest(jax.tree.leaves(params)),
    }


if __name__ == "__main__":
    distopt.telemetry.summary(train())
