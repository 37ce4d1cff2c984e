import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parallel.caught import assert_same_bits, rough_numbers, tree_sum

import distopt
from distopt.arrays import to_dtype
from distopt.distribute.agreement import summation
from distopt.distribute.agreement.summation import SMALL_BYTES, Summation, span_limits, sum_in_place

DTYPES = ("float16", "bfloat16", "float32", "float64")


def _sums(replicas, size, dtype, seed=0):
    def add():
        mine = rough_numbers(distopt.replica_index(), size, dtype, seed)
        sum_in_place(distopt.get_strategy().ready(), mine)
        return mine

    return replicas(add)


def _check(replicas, size, dtype, seed=0):
    rows = [rough_numbers(r, size, dtype, seed) for r in range(replicas.count)]
    for total in _sums(replicas, size, dtype, seed):
        assert_same_bits(total, tree_sum(rows))


def test_the_tree_of_the_test_is_that_of_the_design():
    a, b, c, d, e, f, g, h = (rough_numbers(r, 100, np.float32) for r in range(8))
    assert_same_bits(tree_sum([a, b, c]), (a + b) + c)
    assert_same_bits(tree_sum([a, b, c, d, e]), ((a + b) + (c + d)) + e)
    assert_same_bits(tree_sum([a, b, c, d, e, f]), ((a + b) + (c + d)) + (e + f))
    assert_same_bits(tree_sum([a, b, c, d, e, f, g]), ((a + b) + (c + d)) + ((e + f) + g))
    assert_same_bits(tree_sum([a, b, c, d, e, f, g, h]), ((a + b) + (c + d)) + ((e + f) + (g + h)))
    assert tree_sum([a, b, c, d]).tobytes() != (((a + b) + c) + d).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_around_the_limit_of_small_arrays(replicas, dtype):
    dtype = to_dtype(dtype)
    limit = SMALL_BYTES // dtype.itemsize
    for size in (0, 1, 2, replicas.count - 1, limit - 1, limit, limit + 1):
        _check(replicas, size, dtype)


@pytest.mark.parametrize("size", [4096, 4096 * 3 + 1, 4096 * 8 - 1, 4096 * 8, 50_001])
def test_sizes_around_the_blocks_of_spans(replicas, size):
    _check(replicas, size, np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pieces_of_large_arrays(replicas, monkeypatch, dtype):
    monkeypatch.setattr(summation, "PIECE_BYTES", 4096)
    monkeypatch.setattr(summation, "SMALL_BYTES", 16)
    for size in (1, 9, 511, 512, 513, 4097, 10_000):
        _check(replicas, size, to_dtype(dtype))


@settings(max_examples=15)
@given(
    size=st.integers(0, 3000),
    dtype=st.sampled_from(DTYPES),
    small=st.integers(0, 2000),
    piece=st.integers(8, 3000),
    seed=st.integers(0, 1000),
)
def test_no_cut_changes_a_bit(replicas, size, dtype, small, piece, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summation, "SMALL_BYTES", small)
        patch.setattr(summation, "PIECE_BYTES", piece)
        _check(replicas, size, to_dtype(dtype), seed)


@pytest.mark.parametrize("size", [5, 3000, 40_001])
def test_a_prepared_sum_is_the_sum_of_each_call(replicas, size):
    def add():
        flat = np.empty(size, np.float32)
        summation, totals = Summation(distopt.get_strategy().ready(), flat), []
        for seed in range(4):
            flat[:] = rough_numbers(distopt.replica_index(), size, np.float32, seed)
            summation()
            totals.append(flat.copy())
        return totals

    for totals in replicas(add):
        for seed, total in enumerate(totals):
            rows = [rough_numbers(r, size, np.float32, seed) for r in range(replicas.count)]
            assert_same_bits(total, tree_sum(rows))


def test_infinities_and_signed_zeros(replicas):
    def add():
        mine = np.zeros(3000, np.float32)
        mine[0] = -0.0
        mine[1] = np.inf if distopt.replica_index() == 0 else 1.0
        mine[2] = np.inf if distopt.replica_index() % 2 else -np.inf
        sum_in_place(distopt.get_strategy().ready(), mine)
        return mine

    for total in replicas(add):
        assert np.signbit(total[0])
        assert total[1] == np.inf
        assert np.isnan(total[2]) if replicas.count > 1 else total[2] == -np.inf
        assert not total[3:].any()


def test_sums_of_16_bits_are_rounded_once(replicas):
    def add():
        # One step above 1 in float16 is 2^-10: partial sums rounded to it would lose every addend but the first.
        mine = np.full(6000, 1.0 if distopt.replica_index() == 0 else 2.0**-12, np.float16)
        sum_in_place(distopt.get_strategy().ready(), mine)
        return mine

    for total in replicas(add):
        assert_same_bits(total, np.full(6000, 1 + (replicas.count - 1) * 2.0**-12).astype(np.float16))


@given(size=st.integers(0, 100_000), replicas=st.integers(1, 20))
def test_spans_cover_everything_once(size, replicas):
    limits = span_limits(size, replicas)
    assert limits[0] == 0
    assert limits[-1] == size
    assert limits == sorted(limits)
    assert len(limits) == replicas + 1
    if size >= 4096 * replicas:
        assert all(limit % 4096 == 0 for limit in limits[:-1])
