"""The oracle: N replicas do what one does on the joined batch."""

import numpy as np
import pytest

import distopt
from distopt import GradientTape, Variable
from distopt.data import batches, join
from distopt.losses import (
    MeanSquaredError,
    Reduction,
    SparseCategoricalCrossentropy,
    compute_average_loss,
    mean_squared_error,
    scale_regularization_loss,
)
from distopt.optimizers import SGD, Adam, legacy
from distopt.testing import LocalReplica

N, FEATURES, WORDS, WIDTH, CLASSES, STEPS = 9, 4, 6, 3, 5, 2
RNG = np.random.default_rng(7)
X = RNG.normal(size=(STEPS, N, FEATURES))
WORD = RNG.integers(WORDS, size=(STEPS, N))
CLASS = RNG.integers(CLASSES, size=(STEPS, N))
TARGET = RNG.normal(size=(STEPS, N, CLASSES))
WEIGHT = RNG.uniform(0.5, 2.0, size=(STEPS, N))


class Model:
    """An embedding, whose gradient is sparse, and two dense layers."""

    def __init__(self, dtype):
        rng = np.random.default_rng(1)
        shapes = {"words": (WORDS, WIDTH), "inner": (FEATURES, WIDTH), "outer": (WIDTH, CLASSES), "bias": (CLASSES,)}
        self.variables = [Variable(rng.normal(size=s), name=name, dtype=dtype) for name, s in shapes.items()]

    def __call__(self, x, word):
        words, inner, outer, bias = self.variables
        return np.tanh(x @ inner + words[word]) @ outer + bias

    def penalty(self):
        return 0.1 * sum(np.sum(v * v) for v in self.variables[1:])


def mse(reduction):
    def loss(y, z, weight, total):
        return MeanSquaredError(reduction)(y, z, weight, global_batch_size=total)

    return loss


def averaged(y, z, weight, total):
    return compute_average_loss(mean_squared_error(y, z), weight, global_batch_size=total)


def by_hand(y, z, weight, total):
    return np.sum(MeanSquaredError(Reduction.NONE)(y, z, weight)) / total


LOSSES = {
    "auto": mse(Reduction.AUTO),
    "sum over batch size": mse(Reduction.SUM_OVER_BATCH_SIZE),
    "sum": mse(Reduction.SUM),
    "none": by_hand,
    "compute_average_loss": averaged,
}


def split(count, way):
    """The sizes of the replicas' shares of N examples."""
    if way == "all on one":
        return [N] + [0] * (count - 1)
    return [1] * (count - 1) + [N - count + 1]


SPLITS = ("all on one", "last has most")


def train(make_optimizer, loss, sizes, *, dtype="float64", weighted=False, penalty=False, items=False):
    """Some steps on this replica's share; the parameters and what the optimizer keeps."""
    end = int(np.cumsum(sizes)[distopt.replica_index()])
    share = slice(end - sizes[distopt.replica_index()], end)
    model, optimizer = Model(dtype), make_optimizer()
    for x, word, target, weight in zip(X.astype(dtype), WORD, TARGET.astype(dtype), WEIGHT.astype(dtype), strict=True):
        with GradientTape() as tape:
            z = model(x[share], word[share])
            value = loss(target[share], z, weight[share] if weighted else None, N)
            if penalty:
                value = value + scale_regularization_loss(model.penalty())
        gradients = tape.gradient(value, model.variables)
        pairs = zip(gradients, model.variables, strict=True)
        optimizer.apply_gradients(pairs, items=len(x[share]) if items else None)
    state = optimizer.weights if hasattr(optimizer, "weights") else optimizer.variables
    return [v.numpy() for v in [*model.variables, *state]]


def assert_equal_to_one(replicas, splits, make_optimizer, loss, **options):
    (expected,) = LocalReplica()(lambda: train(make_optimizer, loss, [N], **options))
    for way in splits:
        sizes = split(replicas.count, way)
        for values in replicas(lambda sizes=sizes: train(make_optimizer, loss, sizes, **options)):
            assert_close(values, expected)


def assert_close(values, expected):
    for value, wanted in zip(values, expected, strict=True):
        rtol, atol = (1e-5, 1e-6) if wanted.dtype == np.float32 else (1e-12, 1e-14)
        np.testing.assert_allclose(value, wanted, rtol=rtol, atol=atol)


def momentum():
    return SGD(learning_rate=0.1, momentum=0.9)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_reduction(replicas, loss, weighted):
    assert_equal_to_one(replicas, SPLITS, momentum, loss, weighted=weighted)


@pytest.mark.parametrize("loss", [LOSSES["sum"], LOSSES["auto"]], ids=["sum", "auto"])
def test_a_penalty(replicas, loss):
    assert_equal_to_one(replicas, SPLITS, momentum, loss, penalty=True)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_items_of_a_summed_loss(replicas, weighted):
    assert_equal_to_one(replicas, SPLITS, momentum, LOSSES["sum"], items=True, weighted=weighted)


def test_items_of_a_summed_loss_make_its_mean():
    options = {"make_optimizer": momentum, "sizes": [N]}
    (summed,) = LocalReplica()(lambda: train(loss=LOSSES["sum"], items=True, **options))
    (mean,) = LocalReplica()(lambda: train(loss=LOSSES["compute_average_loss"], **options))
    # The reduction SUM adds losses per example, which are means over the classes already.
    assert_close(summed, mean)


OPTIMIZERS = {
    "SGD": lambda **k: SGD(learning_rate=0.1, **k),
    "momentum": lambda **k: SGD(learning_rate=0.1, momentum=0.9, **k),
    "Nesterov": lambda **k: SGD(learning_rate=0.1, momentum=0.9, nesterov=True, **k),
    "Adam": lambda **k: Adam(learning_rate=0.1, **k),
    "AMSGrad": lambda **k: Adam(learning_rate=0.1, amsgrad=True, **k),
    "legacy SGD": lambda **k: legacy.SGD(learning_rate=0.1, **k),
    "legacy momentum": lambda **k: legacy.SGD(learning_rate=0.1, momentum=0.9, **k),
    "legacy Adam": lambda **k: legacy.Adam(learning_rate=0.1, **k),
    "legacy NonFusedAdam": lambda **k: legacy.NonFusedAdam(learning_rate=0.1, **k),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer(replicas, make_optimizer, dtype):
    assert_equal_to_one(replicas, ["last has most"], make_optimizer, LOSSES["auto"], dtype=dtype)


@pytest.mark.parametrize("clipping", [{"clipvalue": 0.02}, {"clipnorm": 0.1}, {"global_clipnorm": 0.2}])
@pytest.mark.parametrize("name", ["momentum", "Adam", "legacy SGD", "legacy Adam"])
def test_every_clipping(replicas, name, clipping):
    def make_optimizer():
        return OPTIMIZERS[name](**clipping)

    assert_equal_to_one(replicas, ["last has most"], make_optimizer, LOSSES["auto"])


def test_clipping_takes_part():
    (plain,) = LocalReplica()(lambda: train(momentum, LOSSES["auto"], [N]))
    for clipping in ({"clipvalue": 0.02}, {"clipnorm": 0.1}, {"global_clipnorm": 0.2}):
        (clipped,) = LocalReplica()(lambda c=clipping: train(lambda: OPTIMIZERS["momentum"](**c), LOSSES["auto"], [N]))
        assert all(np.abs(a - b).max() > 1e-6 for a, b in zip(plain[:4], clipped[:4], strict=True))


# Data


def train_on_batches(make_optimizer, loss, global_batch_size):
    """Two epochs; the last batch of each is short."""
    x, word, label = X.reshape(-1, FEATURES), WORD.reshape(-1), CLASS.reshape(-1)
    model, optimizer, sizes = Model("float64"), make_optimizer(), []
    for batch in batches((x, word, label), global_batch_size=global_batch_size, epochs=2, seed=3):
        bx, bword, blabel = batch.arrays
        optimizer.minimize(lambda bx=bx, bword=bword, blabel=blabel: loss(blabel, model(bx, bword)), model.variables)
        sizes.append(batch.items)
    return [v.numpy() for v in model.variables], sizes


@pytest.mark.parametrize("global_batch_size", [4, 11])
@pytest.mark.parametrize("name", ["momentum", "Adam", "legacy Adam"])
def test_batches(replicas, name, global_batch_size):
    loss = SparseCategoricalCrossentropy(from_logits=True)
    ((expected, together),) = LocalReplica()(train_on_batches, OPTIMIZERS[name], loss, global_batch_size)
    results = replicas(train_on_batches, OPTIMIZERS[name], loss, global_batch_size)
    for values, _ in results:
        assert_close(values, expected)
    assert np.sum([sizes for _, sizes in results], axis=0).tolist() == together
    last = together[-1]
    assert last < global_batch_size
    assert [sizes[-1] for _, sizes in results].count(0) == max(0, replicas.count - last)


def train_on_items(lengths):
    """Replica r has ``lengths[r]`` batches, of r + 1 examples each."""
    r = distopt.replica_index()
    model, optimizer = Model("float64"), momentum()
    items = [(X[k, : r + 1], WORD[k, : r + 1], TARGET[k, : r + 1]) for k in range(lengths[r])]
    for x, word, y in join(items):
        optimizer.minimize(lambda x=x, word=word, y=y: mse("auto")(y, model(x, word), None, None), model.variables)
    return [v.numpy() for v in model.variables], int(optimizer.iterations)


def test_join_of_iterators_of_unequal_length(replicas):
    lengths = [(r + 1) % (STEPS + 1) for r in range(replicas.count)]

    def joined():
        model, optimizer = Model("float64"), momentum()
        for k in range(max(lengths)):
            members = [r for r in range(replicas.count) if k < lengths[r]]
            x, word, y = (np.concatenate([a[k, : r + 1] for r in members]) for a in (X, WORD, TARGET))
            optimizer.minimize(lambda x=x, word=word, y=y: mse("auto")(y, model(x, word), None, None), model.variables)
        return [v.numpy() for v in model.variables], int(optimizer.iterations)

    ((expected, steps),) = LocalReplica()(joined)
    for values, done in replicas(train_on_items, lengths):
        assert done == steps == max(lengths)
        assert_close(values, expected)
