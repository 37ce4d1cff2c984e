import numpy as np
import pytest
from parallel.caught import assert_same_bits, caught, rough_numbers, tree_sum

import distopt
from distopt import Variable
from distopt.arrays import to_dtype
from distopt.distribute.collectives import exchange
from distopt.errors import InvalidArgumentError, ReplicaFailedError

FLOATS = ("float16", "bfloat16", "float32", "float64")


def _mine():
    return distopt.replica_index() + 1


def test_every_replica_knows_its_place(replicas):
    indices = replicas(lambda: (distopt.replica_index(), distopt.num_replicas()))
    assert indices == [(r, replicas.count) for r in range(replicas.count)]


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (70, 41)])
def test_all_reduce_adds_in_the_tree(replicas, shape):
    for dtype in map(to_dtype, FLOATS):
        rows = [rough_numbers(r, shape, dtype) for r in range(replicas.count)]
        for total in replicas(lambda rows=rows: distopt.all_reduce(rows[distopt.replica_index()])):
            assert_same_bits(total, tree_sum(rows))


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint16", "complex64"])
def test_all_reduce_adds_what_is_no_float(replicas, dtype):
    for total in replicas(lambda: distopt.all_reduce(np.full((2, 3), _mine(), dtype))):
        assert_same_bits(total, np.full((2, 3), replicas.count * (replicas.count + 1) // 2, dtype))


@pytest.mark.parametrize("dtype", [*FLOATS, "int32"])
@pytest.mark.parametrize(("op", "best"), [("max", np.max), ("min", np.min)])
def test_all_reduce_finds_the_extremes(replicas, op, best, dtype):
    rows = np.array([[3 * r % 5, -r, 2] for r in range(replicas.count)])
    for found in replicas(lambda: distopt.all_reduce(rows[distopt.replica_index()].astype(to_dtype(dtype)), op)):
        assert_same_bits(found, best(rows, axis=0).astype(to_dtype(dtype)))


def test_all_reduce_takes_numbers_lists_variables_and_views(replicas):
    def reduce():
        table = np.arange(12.0).reshape(3, 4)
        given = [2, [1.5, 2.5], Variable([1.0, 2.0]), table[:, 1], table.T]
        return [distopt.all_reduce(x) for x in given]

    table = np.arange(12.0).reshape(3, 4)
    expected = [2, [1.5, 2.5], [1.0, 2.0], table[:, 1], table.T]
    for totals in replicas(reduce):
        for total, x in zip(totals, expected, strict=True):
            np.testing.assert_array_equal(total, np.asarray(x) * replicas.count)


def test_arguments_are_not_changed(replicas):
    def use():
        x = np.arange(3000.0) * _mine()
        before = x.copy()
        results = [distopt.all_reduce(x), distopt.all_gather(x), distopt.broadcast(x)]
        for result in results:
            result[...] = -1
        return bool(np.array_equal(x, before))

    assert replicas(use) == [True] * replicas.count


def test_empty_arrays(replicas):
    def use():
        empty = np.empty((0, 3), np.float32)
        return [f(empty).shape for f in (distopt.all_reduce, distopt.all_gather, distopt.broadcast)]

    assert replicas(use) == [[(0, 3), (replicas.count, 0, 3), (0, 3)]] * replicas.count


@pytest.mark.parametrize("dtype", [*FLOATS, "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (5,), (60, 50)])
def test_all_gather_stacks_in_replica_order(replicas, shape, dtype):
    rows = [(10 * rough_numbers(r, shape, np.float64)).astype(to_dtype(dtype)) for r in range(replicas.count)]
    for stacked in replicas(lambda: distopt.all_gather(rows[distopt.replica_index()])):
        assert_same_bits(stacked, np.stack(rows))


def test_broadcast_from_each_replica(replicas):
    def use():
        return [
            distopt.broadcast(np.full(5, 10.0 * distopt.replica_index()), source=source).tolist()
            for source in range(distopt.num_replicas())
        ]

    assert replicas(use) == [[[10.0 * source] * 5 for source in range(replicas.count)]] * replicas.count


def test_broadcast_of_variables_overwrites_them(replicas):
    def use():
        variables = [Variable(np.full((2, 3), _mine(), np.float32)), Variable(float(_mine()))]
        source = distopt.num_replicas() - 1
        returned = distopt.broadcast(variables, source=source)
        alone = Variable([0.0 + _mine()])
        assert distopt.broadcast(alone) is alone
        return returned is variables, [v.numpy().tolist() for v in [*variables, alone]]

    last = float(replicas.count)
    assert replicas(use) == [(True, [[[last] * 3] * 2, last, [1.0]])] * replicas.count


def test_barrier_waits_for_everybody(replicas):
    arrived = set()

    def use():
        arrived.add(distopt.replica_index())
        distopt.barrier()
        return len(arrived)

    expected = replicas.count if replicas.transport == "threads" else 1
    assert replicas(use) == [expected] * replicas.count


def test_print_once_prints_on_replica_0(replicas, capsys):
    if distopt.replica_index() == 0:
        replicas(lambda: distopt.print_once("a line", "of text", sep="-"))
        assert capsys.readouterr().out == "a line-of text\n"
    else:
        replicas(lambda: distopt.print_once("a line", "of text", sep="-"))
        assert capsys.readouterr().out == ""


def test_exchange_of_bytes_of_any_length(replicas):
    def use():
        return exchange("test", bytes(range(1, _mine())) * 50), exchange("test", b"")

    expected = [bytes(range(1, r + 1)) * 50 for r in range(replicas.count)]
    assert replicas(use) == [(expected, [b""] * replicas.count)] * replicas.count


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: distopt.all_reduce(1.0, op="mean"), "op='mean'"),
        (lambda: distopt.all_reduce(["a", "b"]), "array of numbers"),
        (lambda: distopt.all_gather(object()), "array of numbers"),
        (lambda: distopt.broadcast(1.0, source=-1), "source=-1"),
        (lambda: distopt.broadcast(1.0, source=99), "replicas 0 to"),
    ],
)
def test_wrong_arguments_are_refused_everywhere(replicas, wrong, words):
    def use():
        return caught(wrong), float(distopt.all_reduce(1.0))

    for failure, total in replicas(use):
        assert failure.kind is InvalidArgumentError
        assert words in failure.text
        assert total == replicas.count


def test_a_wrong_argument_of_one_replica_is_told_to_the_others(several):
    def use():
        op = "product" if distopt.replica_index() == 1 else "sum"
        return caught(lambda: distopt.all_reduce(1.0, op)), float(distopt.all_reduce(1.0))

    outcomes = several(use)
    for replica, (failure, total) in enumerate(outcomes):
        assert failure.kind is (InvalidArgumentError if replica == 1 else ReplicaFailedError)
        assert "op='product'" in failure.text
        assert total == several.count


def test_a_sum_of_small_integers_that_does_not_fit_is_an_error_on_all(several):
    def call() -> str:
        with pytest.raises(InvalidArgumentError, match="does not fit"):
            distopt.all_reduce(np.uint8(255))
        return str(distopt.all_reduce(np.int8(3)))

    assert several(call) == [str(3 * several.count)] * several.count


def test_a_sum_of_bools_says_how_to_count(several):
    def call() -> None:
        with pytest.raises(InvalidArgumentError, match="Count with"):
            distopt.all_reduce(np.array([True]))

    several(call)


def test_byte_order_of_one_replica_is_no_difference(several):
    def call():
        x = np.array([1.0, 2.0]).astype(">f8" if distopt.replica_index() == 1 else "=f8")
        return (
            distopt.all_gather(x),
            distopt.broadcast(x, source=1),
            distopt.all_reduce(x, op="max"),
            distopt.all_reduce(x, op="min"),
            distopt.all_reduce(x),
            distopt.all_reduce(x.astype(x.dtype.str.replace("f8", "i4"))),
        )

    x = np.array([1.0, 2.0])
    for rows, *results in several(call):
        assert_same_bits(rows, np.stack([x] * several.count))
        for result, factor in zip(results, [1, 1, 1, several.count, several.count], strict=True):
            assert result.dtype.isnative
            assert result.tolist() == (x * factor).tolist()
