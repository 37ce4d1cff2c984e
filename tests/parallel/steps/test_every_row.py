"""Every optimizer on replicas: they do what one does with the sum, with the same bits everywhere, in both modes."""

import numpy as np
import pytest
from optimizer_table import ROWS
from parallel.caught import caught

import distopt
from distopt import IndexedSlices, Strategy, Variable
from distopt.errors import InvalidArgumentError
from distopt.testing import LocalReplica, OptimizerConformance

# A row's patterns are for the variables of other tests.
pytestmark = pytest.mark.filterwarnings("ignore:.*exclude_layers.*fit no variable")

KINDS = ["keras3-SGD-momentum", "keras3-Nadam", "keras3-Lamb", "legacy-SGD-momentum", "legacy-Adam"]
"""One of each kind: by rows or everywhere, with a scalar of its own, on whole arrays; each family."""
BY_ID = {row.id: row for row in ROWS}
NEED_ALL = [row for row in ROWS if not row.is_flat]


def id_of(row):
    return row.id


class TestEachKind(OptimizerConformance):
    """All that an optimizer must do, for one of each kind."""

    @pytest.fixture(autouse=True, params=KINDS)
    def _row(self, request):
        self.row = BY_ID[request.param]

    def make_optimizer(self, **options):
        return self.row.make(**options)


def in_mode(update, fn, *args):
    with Strategy(distopt.get_strategy().communicator, update=update).scope():
        return fn(*args)


def variables():
    rng = np.random.default_rng(0)
    shapes = {"matrix": (70, 61), "vector": (3,), "table": (5, 2)}  # one that two replicas own
    return [Variable(rng.normal(size=shape), name=name) for name, shape in shapes.items()]


def pairs(chosen, step, parts):
    """The sum of these replicas' gradients; that of the last variable is sparse and has repeated rows."""
    rngs = [np.random.default_rng([step, part]) for part in parts]
    dense = [sum(rng.normal(size=v.shape) for rng in rngs) for v in chosen[:-1]]
    rows = np.concatenate([[part % 5, 4, 4] for part in parts])
    slices = IndexedSlices(np.concatenate([rng.normal(size=(3, 2)) for rng in rngs]), rows, (5, 2))
    return list(zip([*dense, slices], chosen, strict=True))


def train(row, parts=None):
    """Some steps with these replicas' parts of the gradients, by default this one's."""
    chosen, optimizer = variables(), row.make()
    for k in range(2):
        optimizer.apply_gradients(pairs(chosen, k, parts or [distopt.replica_index()]))
    return distopt.digest([*chosen, *map(Variable, optimizer.get_weights())]), [v.numpy() for v in chosen]


@pytest.mark.parametrize("row", ROWS, ids=id_of)
def test_replicas_do_what_one_does_in_both_modes(replicas, row):
    ((_, wanted),) = LocalReplica()(train, row, range(replicas.count))
    modes = ["replicated", "shared"] if row.is_flat else ["replicated"]
    outcomes = [outcome for update in modes for outcome in replicas(in_mode, update, train, row)]
    assert len({digest for digest, _ in outcomes}) == 1
    for value, expected in zip(outcomes[0][1], wanted, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("row", NEED_ALL, ids=id_of)
def test_what_needs_whole_arrays_is_refused_in_shared_mode(several, row):
    def step():
        chosen, optimizer = variables(), row.make()
        return caught(optimizer.apply_gradients, pairs(chosen, 0, [distopt.replica_index()]))

    for failure in several(in_mode, "shared", step):
        assert failure.kind is InvalidArgumentError
        assert row.name in failure.text
        assert "update='replicated'" in failure.text
