"""Train a PyTorch model on handwritten digits: what a script for one process needs to run as many.

python examples/digits_torch.py                    one process
mpirun -n 4 python examples/digits_torch.py        four replicas
distopt run -n 4 examples/digits_torch.py          the same, with mpirun found and supervised
"""

import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import distopt
from distopt.adapters.torch import DistributedOptimizer

EPOCHS = 20


def train():
    """Train; return the results, the same on every replica."""
    (x, y), (x_test, y_test) = digits()
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)
    )
    batches = distopt.data.batches((x, y), global_batch_size=96, epochs=EPOCHS)
    schedule = distopt.optimizers.schedules.CosineDecay(0.002, decay_steps=len(batches))
    optimizer = DistributedOptimizer(model.named_parameters(), distopt.optimizers.Adam(schedule))

    losses = []
    start = time.perf_counter()
    for batch in batches:
        images, labels = map(torch.from_numpy, batch.arrays)  # this replica's share of the global batch
        loss = cross_entropy(model(images), labels, reduction="sum")
        loss.backward()
        optimizer.step(items=batch.items)  # sums over the replicas, divided by the items of all
        losses.append(loss.item() / batch.global_size)
    seconds = time.perf_counter() - start

    mine = slice(distopt.replica_index(), None, distopt.num_replicas())  # every replica looks at its part
    with torch.no_grad():
        right = model(torch.from_numpy(x_test[mine])).argmax(1) == torch.from_numpy(y_test[mine])
    return {
        "loss": float(distopt.all_reduce(np.array(losses[-1]))),
        "test accuracy": f"{float(distopt.all_reduce(np.array(right.sum().item()))) / len(y_test):.1%}".replace(
            "%", " %"
        ),
        "items per second": f"{EPOCHS * len(x) / seconds:,.0f}",
        "replicas": distopt.num_replicas(),
        "parameter digest": distopt.digest(parameter.detach().numpy() for parameter in model.parameters()),
    }


def digits():
    """1,797 images of 8 x 8 pixels, 360 of them held out: always the same."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x, y = (images[order] / 16).astype(np.float32), labels[order]
    return (x[:-360], y[:-360]), (x[-360:], y[-360:])


if __name__ == "__main__":
    torch.manual_seed(0)
    distopt.telemetry.summary(train())
