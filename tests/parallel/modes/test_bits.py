"""The same bits on every replica and under every transport, after every step."""

import numpy as np
import pytest

import distopt
from distopt import IndexedSlices, Variable
from distopt.optimizers import SGD, Adam, legacy

OPTIMIZERS = {
    "SGD": lambda: SGD(learning_rate=0.1, global_clipnorm=3.0),
    "momentum": lambda: SGD(learning_rate=0.1, momentum=0.9, nesterov=True, clipvalue=0.7),
    "Adam": lambda: Adam(learning_rate=distopt.optimizers.schedules.ExponentialDecay(0.1, 2, 0.9)),
    "AMSGrad": lambda: Adam(amsgrad=True, clipnorm=1.5),
    "legacy SGD": lambda: legacy.SGD(learning_rate=0.1, momentum=0.9, decay=0.01, clipnorm=1.0, clipvalue=0.5),
    "legacy Adam": lambda: legacy.Adam(learning_rate=0.05, global_clipnorm=2.0),
    "NonFusedAdam": lambda: legacy.NonFusedAdam(learning_rate=0.05),
    "median": lambda: Adam(gradient_aggregator=distopt.aggregators.Stacked(lambda g: np.median(g, axis=0))),
}
VARIABLES = {
    "small": ((7,), "float64"),
    "scalar": ((), "float16"),
    "rows": ((40, 3), "float32"),
    "wide": ((53, 47), "bfloat16"),
    "large": ((53, 47), "float32"),
}


def train(make_optimizer):
    """Digests of parameters and state after each step; gradients differ between replicas, some are missing."""
    me = distopt.replica_index()
    variables = [Variable(np.full(shape, 0.5), name=name, dtype=d) for name, (shape, d) in VARIABLES.items()]
    optimizer, digests = make_optimizer(), []
    for k in range(4):
        rng = np.random.default_rng([k, me])
        # Sizes that differ by powers of two show the order of summation.
        gradients = [
            (rng.normal(size=v.shape) * 2.0 ** rng.integers(-5, 5, v.shape)).astype(v.dtype) for v in variables
        ]
        rows = rng.integers(40, size=6)
        gradients[2] = IndexedSlices(gradients[2][:6], rows, (40, 3))
        if me == 1:
            gradients[k] = None
        optimizer.apply_gradients(zip(gradients, variables, strict=True), items=me + 1)
        state = optimizer.weights if hasattr(optimizer, "weights") else optimizer.variables
        digests.append((distopt.digest(variables), distopt.digest(state)))
    return digests


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_replica_and_every_transport_has_the_same_bits(replicas, make_optimizer):
    digests = replicas(train, make_optimizer)
    assert digests == digests[:1] * replicas.count
    assert len(set(digests[0])) == 4
    if distopt.replica_index() == 0 and replicas.transport != "threads":
        assert distopt.simulate(replicas.count, train, make_optimizer) == digests
