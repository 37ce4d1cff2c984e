"""Replicas with unequal data do what one process does on all of it, in both modes, streamed or not."""

from types import SimpleNamespace

import numpy as np
import pytest
from parallel.caught import caught

import distopt
from distopt import GradientTape, IndexedSlices, Strategy, Variable
from distopt.data import batches, join
from distopt.distribute import get_strategy
from distopt.errors import CollectiveMismatchError
from distopt.losses import compute_average_loss, scale_regularization_loss
from distopt.optimizers import SGD, Adam, legacy
from distopt.testing import LocalReplica

WORDS, WIDTH, EXAMPLES = 6, 3, 11
RNG = np.random.default_rng(3)
WORD = RNG.integers(WORDS, size=EXAMPLES)
TARGET = RNG.normal(size=EXAMPLES)
OPTIMIZERS = {
    "momentum": lambda: SGD(0.1, momentum=0.9, global_clipnorm=2.0),
    "Adam": lambda: Adam(0.1),
    "legacy Adam": lambda: legacy.Adam(0.1),
}
ODD = 1
"""The replica that leaves a loop early."""

both_modes = pytest.mark.parametrize("update", ["replicated", "shared"])
streamed_or_not = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
every_loss = pytest.mark.parametrize("loss", ["averaged", "summed"])
optimizers = pytest.mark.parametrize(
    ("name", "loss"), [("momentum", "averaged"), ("Adam", "summed"), ("legacy Adam", "averaged")]
)


@pytest.fixture(autouse=True)
def _small_buckets(monkeypatch):
    """A streamed step sums while gradients come, also where no core is free."""
    monkeypatch.setenv("DISTOPT_BUCKET_BYTES", "16")


class Model:
    """An embedding, whose gradient is sparse, and a dense layer with a penalty."""

    def __init__(self):
        rng = np.random.default_rng(1)
        shapes = {"words": (WORDS, WIDTH), "dense": (WIDTH,)}
        self.variables = [Variable(rng.normal(size=shape), name=name) for name, shape in shapes.items()]

    def gradients(self, word, target, loss):
        """The gradients, and what is given as ``items``: the mean loss and a penalty, in both cases."""
        words, dense = self.variables
        with GradientTape() as tape:
            losses = (np.sum(words[word] * dense, axis=1) - target) ** 2
            penalty = 0.3 * np.sum(dense * dense)
            if loss == "averaged":
                value = compute_average_loss(losses) + scale_regularization_loss(penalty)
            else:  # what is added once to the mean is added once per item to the sum
                value = np.sum(losses) + len(word) * penalty
        gradients = tape.gradient(value, self.variables)
        assert isinstance(gradients[0], IndexedSlices)
        return gradients, None if loss == "averaged" else len(word)


def step(optimizer, variables, gradients, items, streamed):
    if not streamed:
        optimizer.apply_gradients(zip(gradients, variables, strict=True), items=items)
        return
    optimizer.begin_step(variables)
    for gradient, variable in reversed(list(zip(gradients, variables, strict=True))):
        optimizer.push(variable, gradient)
    optimizer.end_step(items=items)


def train(data, name, loss, update="replicated", streamed=False):
    """A step for each item of the data: the parameters, the state, and the examples of each step."""
    with Strategy(get_strategy().communicator, update=update).scope():
        model, optimizer, sizes = Model(), OPTIMIZERS[name](), []
        for item in data():
            word, target = getattr(item, "arrays", item)
            step(optimizer, model.variables, *model.gradients(word, target, loss), streamed)
            sizes.append(len(word))
        state = [v.numpy() for v in model.variables] + optimizer.get_weights()
        return state, sizes, int(optimizer.iterations)


def assert_as_one_process(replicas, data, whole, *options):
    """All replicas end with the state of one process that has everything, after as many steps."""
    ((expected, total, steps),) = LocalReplica()(train, whole, *options[:2])
    results = replicas(train, data, *options)
    for state, _, done in results:
        assert done == steps
        for value, wanted in zip(state, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-12)
    assert np.sum([sizes for _, sizes, _ in results], axis=0).tolist() == total
    return [sizes for _, sizes, _ in results]


@streamed_or_not
@both_modes
@optimizers
def test_batches_in_which_some_replicas_have_nothing(several, name, loss, update, streamed):
    def data():
        return batches((WORD, TARGET), global_batch_size=5, seed=2)

    sizes = assert_as_one_process(several, data, data, name, loss, update, streamed)
    assert 0 in sizes[-1]
    assert len({len(of_replica) for of_replica in sizes}) == 1


def parts(replica, steps):
    """Replica r has r + 1 examples in each of its steps."""
    for k in range(steps):
        chosen = (np.arange(replica + 1) + k) % EXAMPLES
        yield WORD[chosen], TARGET[chosen]


@streamed_or_not
@both_modes
@optimizers
@pytest.mark.parametrize("lengths", [(0, 2), (3, 1, 0, 4)], ids=str)
def test_iterators_of_unequal_length(several, name, loss, update, streamed, lengths):
    lengths = [lengths[r % len(lengths)] for r in range(several.count)]

    def data():
        me = distopt.replica_index()
        return join(parts(me, lengths[me]))

    def whole():
        for k in range(max(lengths)):
            items = [list(parts(r, lengths[r]))[k] for r in range(several.count) if k < lengths[r]]
            yield from join([tuple(np.concatenate(arrays) for arrays in zip(*items, strict=True))])

    sizes = assert_as_one_process(several, data, whole, name, loss, update, streamed)
    assert [np.count_nonzero(of_replica) for of_replica in sizes] == lengths


@streamed_or_not
@both_modes
@every_loss
def test_a_step_in_which_nobody_has_an_example(several, loss, update, streamed):
    def run():
        with Strategy(get_strategy().communicator, update=update).scope():
            model, optimizer = Model(), SGD(0.25)
            before = [v.numpy() for v in model.variables]
            for word, target in join([(WORD[:0], TARGET[:0])]):
                step(optimizer, model.variables, *model.gradients(word, target, loss), streamed)
            return before, [v.numpy() for v in model.variables], int(optimizer.iterations)

    for before, (words, dense), steps in several(run):
        assert steps == 1
        np.testing.assert_array_equal(words, before[0])
        # The mean of nothing is 0, and the penalty stays; a sum of nothing has no items to divide by.
        shrunk = before[1] * (1 - 0.25 * 0.6) if loss == "averaged" else before[1]
        np.testing.assert_allclose(dense, shrunk, rtol=1e-12)


@both_modes
@streamed_or_not
def test_items_of_fractions_and_zeros(several, update, streamed):
    items = [0, 0.5, 2.25, 0, 1, 3, 0, 7][: several.count]

    def run():
        with Strategy(get_strategy().communicator, update=update).scope():
            v, optimizer = Variable(np.zeros(3)), SGD(1.0)
            mine = items[distopt.replica_index()]
            step(optimizer, [v], [np.full(3, 4.0 * mine)], mine, streamed)
            return v.numpy().tolist()

    assert several(run) == [[-4.0] * 3] * several.count


# Leaving a loop early


def steps_in(s, loop):
    for item in loop():
        s.optimizer.apply_gradients([(np.full(2, float(len(getattr(item, "arrays", item)))), s.v)])
        yield


def leave(s, loop, then):
    """Take steps in a loop that one replica leaves after the first; then do something else."""
    for _ in steps_in(s, loop):
        if distopt.replica_index() == ODD:
            break
    then(s, loop)


LOOPS = {
    "join": lambda: join(np.ones(1) for _ in range(3)),
    "batches": lambda: batches(np.ones(6), global_batch_size=2),
}
AFTERWARDS = {
    "a collective": lambda s, loop: distopt.barrier(),
    "the same loop": lambda s, loop: list(steps_in(s, loop)),
    "a loop without steps": lambda s, loop: list(loop()),
}


@both_modes
@pytest.mark.parametrize("then", AFTERWARDS.values(), ids=AFTERWARDS)
@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_leaving_a_loop_early_is_an_error_on_all(several, update, loop, then):
    def run():
        with Strategy(get_strategy().communicator, update=update).scope():
            s = SimpleNamespace(v=Variable(np.zeros(2)), optimizer=SGD(1.0))
            failure = caught(leave, s, loop, then)
            value, steps = s.v.numpy(), int(s.optimizer.iterations)
            # They can go on together, in a new loop.
            for item in join([np.ones(1)] * (1 + distopt.replica_index())):
                s.optimizer.apply_gradients([(np.ones(2), s.v)], items=len(item))
            return failure, value.tolist(), steps, int(s.optimizer.iterations)

    outcomes = several(run)
    assert outcomes == outcomes[:1] * several.count
    failure, value, steps, steps_at_last = outcomes[0]
    assert failure.kind is CollectiveMismatchError
    assert "test_uneven.py:" in failure.text
    assert steps == 1
    assert value == [-float(several.count if loop is LOOPS["join"] else 2)] * 2
    assert steps_at_last == steps + several.count
