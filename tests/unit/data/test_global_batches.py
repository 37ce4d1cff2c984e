import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.on_replicas import raised_everywhere

import distopt
from distopt import replica_index, simulate
from distopt.data import Batch, batches
from distopt.data.current import current_batch
from distopt.errors import InvalidArgumentError


def current_size():
    batch = current_batch()
    return None if batch is None else batch.global_size


def shares(replicas, make):
    """What each replica gets: a list of batches per replica."""
    return simulate(replicas, lambda: list(make()))


def global_order(per_replica):
    """The global batches put together again, as lists."""
    return [np.concatenate([batch.arrays for batch in step]).tolist() for step in zip(*per_replica, strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    replicas=st.integers(1, 8),
    examples=st.integers(1, 40),
    size=st.integers(1, 50),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**64 - 1),
    shuffle=st.booleans(),
)
def test_every_example_exactly_once_per_epoch(replicas, examples, size, epochs, seed, shuffle):
    def make():
        return batches(np.arange(examples), global_batch_size=size, epochs=epochs, seed=seed, shuffle=shuffle)

    per_replica = shares(replicas, make)
    steps = global_order(per_replica)
    assert len(steps) == len(make()) == epochs * -(-examples // size)
    assert steps == global_order(shares(1, make))
    for epoch in range(epochs):
        drawn = [n for batch, step in zip(per_replica[0], steps, strict=True) if batch.epoch == epoch for n in step]
        assert sorted(drawn) == list(range(examples))
    for step, numbers in zip(zip(*per_replica, strict=True), steps, strict=True):
        sizes = [batch.items for batch in step]
        assert sizes == sorted(sizes, reverse=True)
        assert max(sizes) - min(sizes) <= 1
        assert all(len(batch.arrays) == batch.items for batch in step)
        assert {batch.global_size for batch in step} == {len(numbers)} == {sum(sizes)}


def test_the_last_batch_of_an_epoch_is_short_and_marked():
    made = list(batches(np.arange(7), global_batch_size=3, epochs=2))
    assert [batch.global_size for batch in made] == [3, 3, 1] * 2
    assert [batch.ends_epoch for batch in made] == [False, False, True] * 2
    assert [batch.epoch for batch in made] == [0, 0, 0, 1, 1, 1]


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(seed):
        return [batch.arrays.tolist() for batch in batches(np.arange(50), global_batch_size=50, epochs=2, seed=seed)]

    first, second = order(0)
    assert len({tuple(numbers) for numbers in (first, second, *order(1), range(50))}) == 5
    assert order(0) == [first, second]


def test_the_order_is_pinned():
    # A change of these numbers changes what every user's seed means.
    (batch,) = batches(np.arange(8), global_batch_size=8, seed=3)
    assert batch.arrays.tolist() == [6, 1, 5, 2, 7, 4, 3, 0]


def test_shuffle_false_keeps_the_order():
    assert np.concatenate([b.arrays for b in batches(np.arange(9), global_batch_size=4, shuffle=False)]).tolist() == [
        *range(9)
    ]


def test_replicas_without_examples_get_empty_arrays():
    per_replica = shares(5, lambda: batches(np.zeros((3, 2), np.float32), global_batch_size=4))
    assert [[batch.items for batch in replica] for replica in per_replica] == [[1], [1], [1], [0], [0]]
    empty = per_replica[4][0]
    assert empty.arrays.shape == (0, 2)
    assert empty.arrays.dtype == np.float32
    assert empty.global_size == 3
    assert empty.ends_epoch


@pytest.mark.parametrize(
    "structure",
    [lambda x, y: (x, y), lambda x, y: [x, y], lambda x, y: {"x": x, "y": y}],
    ids=["tuple", "list", "dict"],
)
def test_structures_come_back_with_rows_that_belong_together(structure):
    x = np.arange(10)
    for batch in batches(structure(x, x * x), global_batch_size=4):
        assert type(batch.arrays) is type(structure(x, x))
        local_x, local_y = batch.arrays.values() if isinstance(batch.arrays, dict) else batch.arrays
        np.testing.assert_array_equal(local_y, local_x**2)


def test_arrays_of_a_batch_are_the_users_own():
    x = np.arange(4.0)
    for batch in batches(x, global_batch_size=2, shuffle=False):
        batch.arrays[:] = -1
    np.testing.assert_array_equal(x, np.arange(4.0))


def test_batches_can_be_iterated_again():
    made = batches(np.arange(10), global_batch_size=3, epochs=2, seed=5)
    assert [b.arrays.tolist() for b in made] == [b.arrays.tolist() for b in made]


def test_a_batch_can_not_be_changed():
    batch = Batch(arrays=np.ones(1), items=1, global_size=1, epoch=0, ends_epoch=True)
    with pytest.raises(AttributeError):
        batch.items = 2


def test_the_global_size_is_known_while_a_batch_is_current():
    def seen():
        made = []
        for _ in batches(np.arange(5), global_batch_size=3):
            made.append(current_size())
        return [*made, current_size()]

    assert simulate(4, seen) == [[3, 2, None]] * 4


def test_leaving_the_loop_early_clears_the_global_size():
    for _ in batches(np.arange(5), global_batch_size=3):
        break
    gc.collect()
    assert current_size() is None


def test_an_evaluation_inside_a_training_loop_gives_the_batch_back():
    sizes = []
    for _ in batches(np.arange(5), global_batch_size=5):
        for _ in batches(np.arange(2), global_batch_size=2):
            sizes.append(current_size())
        sizes.append(current_size())
    assert [*sizes, current_size()] == [2, 5, None]


def test_two_loops_at_once_leave_nothing_behind():
    for _ in zip(batches(np.arange(5), global_batch_size=5), batches(np.arange(2), global_batch_size=2), strict=True):
        assert current_size() == 2
    gc.collect()
    assert current_size() is None


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        (np.arange(3), {"global_batch_size": 0}, "global_batch_size must be an integer >= 1, received 0"),
        (np.arange(3), {"global_batch_size": 2.0}, "global_batch_size must be an integer >= 1, received 2.0"),
        (np.arange(3), {"global_batch_size": True}, "global_batch_size must be an integer"),
        (np.arange(3), {"global_batch_size": 1, "epochs": 0}, "epochs must be an integer >= 1"),
        (np.arange(3), {"global_batch_size": 1, "seed": -1}, "seed must be an integer >= 0"),
        (np.arange(3), {"global_batch_size": 1, "seed": None}, "seed must be an integer"),
        (np.zeros((0, 3)), {"global_batch_size": 1}, "without examples"),
        ((), {"global_batch_size": 1}, "empty tuple"),
        (np.float32(1), {"global_batch_size": 1}, r"has shape \(\) and dtype float32"),
        ([1, 2, 3], {"global_batch_size": 1}, r"arrays\[0\] is a int, not an array"),
        (((np.ones(2),), np.ones(2)), {"global_batch_size": 1}, r"arrays\[0\] is a tuple, not an array"),
        ({"x": np.ones(2), "y": np.ones(3)}, {"global_batch_size": 1}, r"arrays\['x'\] 2, arrays\['y'\] 3"),
        (np.array([object()]), {"global_batch_size": 1}, "dtype object"),
    ],
)
def test_bad_arguments(arrays, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        batches(arrays, **options)


def test_replicas_that_would_cut_different_batches_all_raise():
    messages = raised_everywhere(
        3, lambda: list(batches(np.arange(4), global_batch_size=2, seed=int(replica_index() == 1)))
    )
    assert len(set(messages)) == 1
    assert 'replica 0, 2: {"arrays"' in messages[0]
    assert '"seed": 1' in messages[0]


def test_replicas_that_made_different_data_are_told():
    def train():
        x = np.random.default_rng(distopt.replica_index()).normal(size=(100, 3))
        list(distopt.data.batches(x, global_batch_size=10))

    with pytest.raises(InvalidArgumentError, match="digest of a sample"):
        distopt.simulate(2, train)
