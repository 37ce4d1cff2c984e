"""Models, data and training loops that the tests of the PyTorch adapter share."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import distopt
from distopt.adapters.torch import DistributedOptimizer
from distopt.optimizers import SGD, Adam, legacy

EXAMPLES, FEATURES, CLASSES = 24, 6, 4


def variables_of(optimizer):
    """The variables that the adapter has made of the parameters, last first."""
    return optimizer._variables


def filled(model, seed=0):
    """The model with values that depend on nothing but the seed: PyTorch's own generator is one for all threads."""
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(random.normal(0, 0.5, tuple(parameter.shape))))
    return model


def mlp(seed=0, dtype=torch.float32):
    """A network of two layers."""
    return filled(nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES)).to(dtype), seed)


def data(seed=1):
    """Examples and their classes."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(random.integers(CLASSES, size=EXAMPLES))


def share(x):
    """This replica's part of the examples, not of equal size."""
    first, replicas = distopt.replica_index(), distopt.num_replicas()
    limits = [EXAMPLES * r * (r + 1) // (replicas * (replicas + 1)) for r in range(replicas + 1)]
    return x[limits[first] : limits[first + 1]]


def backward(model, x, y):
    """Sum the loss over examples, differentiate it, and return their number."""
    cross_entropy(model(x), y, reduction="sum").backward()
    return len(x)


def train(model, inner, steps=5):
    """Train on this replica's share of the examples; return the parameters' digest and values."""
    optimizer = DistributedOptimizer(model.named_parameters(), inner)
    x, y = map(share, data())
    for _ in range(steps):
        optimizer.step(items=backward(model, x, y))
        optimizer.zero_grad()
    return values(model)


def values(model):
    """Copies of the parameters by name."""
    return {name: parameter.detach().float().numpy().copy() for name, parameter in model.named_parameters()}


def same(results):
    """Whether all replicas ended with the same bits."""
    return len({distopt.digest(result.values()) for result in results}) == 1


def assert_close(left, right, **tolerance):
    """All parameters are close."""
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], err_msg=name, **tolerance)


MAKERS = {
    "Adam": lambda: Adam(0.01),
    "SGD": lambda: SGD(0.1, momentum=0.9),
    "clipped": lambda: Adam(0.01, global_clipnorm=0.1),
    "legacy": lambda: legacy.Adam(0.01),
}
