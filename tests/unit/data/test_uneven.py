import ml_dtypes
import numpy as np
import pytest
from unit.on_replicas import raised_everywhere

from distopt import replica_index, simulate
from distopt.data import join
from distopt.data.current import current_batch
from distopt.errors import InvalidArgumentError


def current_size():
    batch = current_batch()
    return None if batch is None else batch.global_size


def uneven(replicas, make):
    """The items of each replica, whose iterable is ``make(index)``, and the global sizes it saw."""

    def run():
        items = [(item, current_size()) for item in join(make(replica_index()))]
        assert current_size() is None
        return items

    return simulate(replicas, run)


@pytest.mark.parametrize("steps", [(3, 1), (5, 0), (0, 5), (2, 2), (0, 0, 4), (1, 4, 0, 2, 3)])
def test_join_ends_on_the_same_step_everywhere(steps):
    made = uneven(
        len(steps),
        lambda index: iter([np.full((index + 1, 2), step, np.float32) for step in range(steps[index])]),
    )
    for index, items in enumerate(made):
        assert len(items) == max(steps)
        for step, (item, global_size) in enumerate(items):
            assert item.shape == ((index + 1, 2) if step < steps[index] else (0, 2))
            assert item.dtype == np.float32
            assert np.all(item == step)
            assert global_size == sum(k + 1 for k, count in enumerate(steps) if step < count)


def test_join_of_nothing_yields_nothing():
    assert uneven(3, lambda index: []) == [[], [], []]


@pytest.mark.parametrize(
    "item",
    [
        (np.ones((2, 3)), np.arange(2)),
        [np.ones((2, 3), ml_dtypes.bfloat16)],
        {"text": np.array(["ab", "c"]), "label": np.array([True, False])},
    ],
    ids=["tuple", "list", "dict"],
)
def test_empty_items_have_the_structure_of_the_others(item):
    (full, _), (empty, _) = [items[0] for items in uneven(2, lambda index: [] if index else [item])]
    assert type(empty) is type(full) is type(item)
    names = sorted(item) if isinstance(item, dict) else range(len(item))
    assert len(empty) == len(item)
    for name in names:
        np.testing.assert_array_equal(full[name], item[name])
        assert empty[name].shape == (0, *item[name].shape[1:])
        assert empty[name].dtype == item[name].dtype


def test_the_order_of_keys_is_no_difference():
    items = {0: {"x": np.ones(1), "y": np.zeros(2)[:1]}, 1: {"y": np.zeros(1), "x": np.ones(1)}}
    made = uneven(2, lambda index: [items[index]])
    assert [step[0][0]["x"].tolist() for step in made] == [[1.0], [1.0]]


def test_an_iterator_that_is_out_is_not_asked_again():
    class StartsOver:
        """Like loaders that begin the next epoch when they are asked after their end."""

        def __init__(self, steps):
            self.steps, self.given = steps, 0

        def __iter__(self):
            return self

        def __next__(self):
            self.given += 1
            if self.given > self.steps:
                self.given = 0
                raise StopIteration
            return np.ones(1)

    made = uneven(2, lambda index: StartsOver(1 + 3 * index))
    assert [len(item) for item, _ in made[0]] == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            [np.ones((2, 3)), np.ones((2, 4))],
            r"replica 0: array of float64 \(examples, 3\)\n  replica 1: .*, 4\)",
        ),
        ([np.ones(2), np.ones(2, np.float32)], r"replica 0: .*float64.*\n  replica 1: .*float32"),
        ([(np.ones(2),), [np.ones(2)]], r"replica 0: tuple of .*\n  replica 1: list of"),
        ([{"x": np.ones(2)}, {"z": np.ones(2)}], r"replica 0: dict of x float64"),
        ([np.ones(2), "text"], "on replica 1: item is a str, not an array"),
        ([np.ones(2), 3.0], "on replica 1: item is a float, not an array"),
        ([np.ones(2), (np.ones(2), np.ones(3))], r"on replica 1: .*item\[0\] 2, item\[1\] 3"),
        ([np.ones(2), {1: np.ones(2)}], "on replica 1: the keys of a dict of arrays must be strings"),
        ([np.ones(2), ()], "on replica 1: item is an empty tuple"),
    ],
)
def test_items_that_do_not_fit_raise_on_every_replica(items, message):
    messages = raised_everywhere(3, lambda: list(join(items[replica_index() :][:1])))
    assert len(set(messages)) == 1
    with pytest.raises(InvalidArgumentError, match=message):
        raise InvalidArgumentError(messages[0])


def test_byte_order_of_an_item_is_no_difference():
    made = uneven(2, lambda index: [np.array([1.0], ">f4" if index else "=f4")])
    for ((item, size),) in made:
        assert item.dtype.isnative
        assert (item.tolist(), size) == ([1.0], 2)
