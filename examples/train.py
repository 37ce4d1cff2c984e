"""Train a small network on handwritten digits: the template to copy.

python examples/train.py                    one process
mpirun -n 4 python examples/train.py        four replicas
distopt run -n 4 examples/train.py          the same, with mpirun found and supervised
distopt.simulate(4, train, config)          the same in one process, for tests and notebooks
"""

import argparse
import difflib
import itertools
import time
import tomllib
from pathlib import Path

import numpy as np

import distopt

CONFIG = Path(__file__).parent.parent / "configs" / "digits.toml"
KEYS = {
    "seed": int,
    "model": {"hidden": list},
    "optimizer": {"name": str},
    "schedule": {"initial_learning_rate": float, "alpha": float},
    "clipping": {"global_clipnorm": float},
    "data": {"global_batch_size": int, "epochs": int},
}


def train(config):
    """Train as the configuration says; return the results, the same on every replica."""
    (x, y), (x_test, y_test) = load_digits()
    layers = make_model([x.shape[1], *config["model"]["hidden"], 10], config["seed"])
    variables = [variable for layer in layers for variable in layer]
    batches = distopt.data.batches((x, y), **config["data"], seed=config["seed"])
    schedule = distopt.optimizers.schedules.CosineDecay(decay_steps=len(batches), **config["schedule"])
    optimizer = getattr(distopt.optimizers, config["optimizer"]["name"])(schedule, **config["clipping"])
    loss_of = distopt.losses.SparseCategoricalCrossentropy(from_logits=True)

    losses, local_losses = [], []
    start = time.perf_counter()
    with distopt.telemetry.Progress(len(batches)) as progress:
        for batch in batches:
            images, labels = batch.arrays  # this replica's share of the global batch
            with distopt.GradientTape() as tape:
                loss = loss_of(labels, predict(layers, images))  # divided by the size of the global batch
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))  # sums over the replicas
            local_losses.append(float(loss))
            if batch.ends_epoch:
                losses.extend(distopt.all_reduce(np.array(local_losses)).tolist())
                local_losses.clear()
            progress.advance(**({"loss": losses[-1]} if losses else {}))
    seconds = time.perf_counter() - start

    return {
        "losses": losses,
        "accuracy": accuracy(layers, x_test, y_test),
        "items_per_second": len(x) * config["data"]["epochs"] / seconds,
        "replicas": distopt.num_replicas(),
        "slowest": distopt.telemetry.stragglers()[0],
        "digest": distopt.digest(variables),
    }


def load_digits():
    """1,797 images of 8 x 8 pixels, 360 of them held out: always the same."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x, y = (images[order] / 16).astype(np.float32), labels[order]
    return (x[:-360], y[:-360]), (x[-360:], y[-360:])


def make_model(sizes, seed):
    """A list of layers: pairs of weights and biases."""
    random = np.random.default_rng(seed)
    layers = []
    for inputs, units in itertools.pairwise(sizes):
        weights = random.normal(0, np.sqrt(2 / inputs), (inputs, units)).astype(np.float32)
        layers.append((distopt.Variable(weights), distopt.Variable(np.zeros(units, np.float32))))
    return layers


def predict(layers, x):
    """The logits of a batch: (examples, 10)."""
    for weights, biases in layers[:-1]:
        x = np.maximum(x @ weights + biases, 0)
    weights, biases = layers[-1]
    return x @ weights + biases


def accuracy(layers, x, y):
    """The share of right answers; every replica looks at its part of the examples."""
    mine = slice(distopt.replica_index(), None, distopt.num_replicas())
    right = np.argmax(predict(layers, x[mine]), axis=1) == y[mine]
    return float(distopt.all_reduce(np.array(right.sum()))) / len(y)


def read_config(path):
    """Read a TOML file in which every key is known and none is missing."""
    config = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    check(config, KEYS, str(path))
    return config


def check(table, keys, where):
    for key in table.keys() - keys.keys():
        near = difflib.get_close_matches(key, keys, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(keys)}"
        raise SystemExit(f"{where}: unknown key {key!r}: {hint}")
    for key, kind in keys.items():
        if key not in table:
            raise SystemExit(f"{where}: the key {key!r} is missing")
        if isinstance(kind, dict):
            check(table[key], kind, f"{where} [{key}]")
        elif type(table[key]) not in {kind, int if kind is float else kind}:
            raise SystemExit(f"{where}: {key} = {table[key]!r}: expected {kind.__name__}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=CONFIG, help="a TOML file (default: configs/digits.toml)")
    results = train(read_config(parser.parse_args().config))
    distopt.telemetry.summary(
        {
            "loss": results["losses"][-1],
            "test accuracy": f"{results['accuracy']:.1%}".replace("%", " %"),
            "items per second": f"{results['items_per_second']:,.0f}",
            "replicas": results["replicas"],
            "slowest replica": f"{results['slowest'].replica}, late by {1e6 * results['slowest'].late:.0f} µs a step",
            "parameter digest": results["digest"],
        }
    )


if __name__ == "__main__":
    main()
