"""Train a Keras model on handwritten digits: what a script for one process needs to run as many.

python examples/digits_keras.py                      one process, on the torch backend
mpirun -n 4 python examples/digits_keras.py          four replicas
KERAS_BACKEND=jax mpirun -n 4 python ...             the same on the JAX backend
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")  # read once, by the first import of Keras

import keras
import numpy as np
from sklearn.datasets import load_digits

import distopt
from distopt.adapters.keras import DistributedOptimizer, ReplicaCallback, Shares


def train(epochs=10):
    """Train; return the results, the same on every replica."""
    (x, y), (x_test, y_test) = digits()
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(256, activation="relu"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input([64]), *layers])

    # The three lines that differ from those for one process:
    optimizer = DistributedOptimizer(keras.optimizers.Adam(0.003))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    shares = Shares(x, y, global_batch_size=96)
    history = model.fit(shares, epochs=epochs, verbose=0, callbacks=[ReplicaCallback()]).history

    _, accuracy = model.evaluate(x_test, y_test, verbose=0)  # every replica looks at all of them
    return {
        "loss": history["loss"][-1],
        "test accuracy": f"{accuracy * 100:.1f} %",
        "replicas": distopt.num_replicas(),
        "parameter digest": distopt.digest(model.get_weights()),
    }


def digits():
    """1,797 images of 8 x 8 pixels, 360 of them held out: always the same."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x, y = (images[order] / 16).astype(np.float32), labels[order]
    return (x[:-360], y[:-360]), (x[-360:], y[-360:])


if __name__ == "__main__":
    distopt.telemetry.summary(train())
