"""Flat memory: layout, alignment, padding, placing once, digests."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distopt import Variable, digest, optimizers
from distopt.memory.arena import allocate
from distopt.memory.layout import ALIGNMENT, aligned_zeros, layout
from distopt.optimizers.common.access import engine_of

DTYPES = [np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]


@given(sizes=st.lists(st.integers(0, 100)), dtype=st.sampled_from(DTYPES))
def test_layout(sizes, dtype):
    starts, length = layout(sizes, dtype.itemsize)
    assert all(start * dtype.itemsize % ALIGNMENT == 0 for start in starts)
    ends = [start + size for start, size in zip(starts, sizes, strict=True)]
    assert all(end <= start for end, start in zip(ends, [*starts[1:], length], strict=False))
    assert length - sum(sizes) < (len(sizes) or 1) * ALIGNMENT // dtype.itemsize


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 63, 1000])
def test_aligned_zeros(dtype, count):
    for _ in range(5):
        array = aligned_zeros(count, dtype)
        assert array.ctypes.data % ALIGNMENT == 0 or count == 0
        assert (array.shape, array.dtype) == ((count,), dtype)
        assert not array.any()


def test_placing_keeps_values_and_happens_once():
    xs = [Variable(np.full(shape, 3, np.float32)) for shape in ((), (5,), (2, 0), (2, 3))]
    allocate(xs)
    views = [x.value for x in xs]
    assert len({id(x.storage.buffer) for x in xs}) == 1
    for x in xs:
        assert (x.numpy() == 3).all()
        assert x.value.base is not None
    allocate([*xs, Variable([1.0])])
    assert all(x.value is view for x, view in zip(xs, views, strict=True))
    with pytest.raises(RuntimeError, match="placed once"):
        xs[0].storage.move_to(np.zeros(()))


def test_one_buffer_per_dtype_and_per_placing():
    first = [Variable([1.0], dtype=dtype) for dtype in DTYPES for _ in range(2)]
    allocate(first)
    homes = [x.storage.buffer for x in first]
    assert len({id(home) for home in homes}) == len(DTYPES)
    assert all(home.flat.dtype == x.dtype for home, x in zip(homes, first, strict=True))
    late = Variable([1.0])
    allocate([first[0], late])
    assert late.storage.buffer not in homes


@pytest.mark.parametrize("cls", [optimizers.SGD, optimizers.Adam])
def test_padding_stays_zero(cls):
    xs = [Variable(np.ones(n, np.float32)) for n in (3, 1, 17)]
    optimizer = cls(0.5, **({"momentum": 0.9} if cls is optimizers.SGD else {}))
    for _ in range(3):
        optimizer.apply_gradients([(np.ones(x.shape, np.float32), x) for x in xs])
    used = np.zeros(xs[0].storage.buffer.flat.size, bool)
    for x in xs:
        used[x.storage.start : x.storage.start + x.size] = True
    for flat in (xs[0].storage.buffer.flat, *engine_of(optimizer).slots.flats.values()):
        assert flat[used].all()
        assert not flat[~used].any()


def test_slots_lie_parallel_to_their_variables():
    xs = [Variable(np.ones((2, 3), np.float32)), Variable(1.0)]
    adam = optimizers.Adam()
    adam.build(xs)
    m, flat = adam.variables[2], engine_of(adam).slots.flats[xs[0].storage.buffer, "momentum"]
    assert np.shares_memory(m.value, flat)
    m.assign(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(flat[xs[0].storage.start : xs[0].storage.start + 6], np.arange(6))


def test_the_digest_is_of_shapes_dtypes_and_bits():
    x = Variable([1.0, 2.0, 3.0])
    alone = digest([x])
    allocate([x, Variable([9.0])])
    assert digest([x]) == digest([x.numpy()]) == alone
    others = [[1.0, 2.0], [[1.0], [2.0], [3.0]], [1.0, 2.0, -3.0], [3.0, 2.0, 1.0]]
    assert alone not in {digest([np.array(other, np.float32)]) for other in others}
    assert digest([np.zeros(2)]) != digest([np.zeros(2, np.int64)])
    assert digest([np.array([0.0])]) != digest([np.array([-0.0])])
    assert digest([]) == digest(iter(()))
    assert digest([np.ones((2, 3)).T]) == digest([np.ones((3, 2))])
