"""The gradients of a step in a slab: views, no copies, what hooks return, shapes that fit."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distopt import IndexedSlices, Variable
from distopt.errors import InvalidArgumentError
from distopt.slabs.fitting import fit
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import Listing
from distopt.slabs.slab import Slab, describe

DTYPES = [np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]


def test_a_slab_has_one_view_per_entry():
    a, b = Variable(np.zeros((2, 3), np.float32), name="a"), Variable(np.zeros(3), name="b")
    slab = Slab([a, b, a])
    assert [view.shape for view in slab.views] == [(2, 3), (3,), (2, 3)]
    assert Listing(slab).has_duplicates
    assert not Listing(slab, [0, 1]).has_duplicates
    slab.views[0][...] = 1
    slab.views[2][...] = 2
    assert (slab.views[0] == 1).all()
    assert [list(members) for members in slab.members.values()] == [[0, 2], [1]]
    assert Listing(slab).description == "a: float32[2, 3], b: float64[3], a: float32[2, 3]"
    np.testing.assert_array_equal(slab.spans(np.dtype(np.float32), [2]), [[slab.starts[2], 6]])
    assert slab.spans(np.dtype(np.float64), [0]).shape == (0, 2)


def test_describe():
    assert describe([]) == "none"
    assert describe([Variable(1.0, name="x")], names=False) == "float32[]"


def gradients_of(*variables, sparse=None):
    slab = Slab(variables)
    for k, view in enumerate(slab.views):
        view[...] = k + 1
    made = Gradients(Listing(slab))
    made.sparse.update(sparse or {})
    return made


def test_a_list_of_views_is_taken_without_a_copy():
    x, y = Variable([0.0]), Variable([0.0])
    gradients = gradients_of(x, y)
    pairs = gradients.pairs()
    assert pairs[0][0] is gradients.slab.views[0]
    gradients.replace_from_hook(pairs[::-1], "hook")
    assert list(gradients.entries) == [1, 0]
    gradients.replace_from_hook(pairs[1:], "hook")
    assert list(gradients.entries) == [1]


def test_gradients_may_be_exchanged_between_variables():
    """Writing the first must not change the second."""
    x, y = Variable([0.0]), Variable([0.0])
    gradients = gradients_of(x, y)
    (g, _), (h, _) = gradients.pairs()
    gradients.replace_from_hook([(h, x), (g, y)], "hook")
    assert [float(view[0]) for view in gradients.slab.views] == [2.0, 1.0]


def test_entries_of_a_repeated_variable_are_taken_in_order():
    x = Variable([0.0])
    gradients = gradients_of(x, x)
    gradients.replace_from_hook([(g * 10, v) for g, v in gradients.pairs()], "hook")
    assert [float(view[0]) for view in gradients.slab.views] == [10.0, 20.0]
    with pytest.raises(InvalidArgumentError, match="returned it twice"):
        gradients.replace_from_hook([(np.zeros(1), x)] * 3, "hook")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given_as", [np.float64, np.float32, np.int32, bool])
def test_what_a_hook_returns_is_cast(dtype, given_as):
    x = Variable([0.0, 0.0], dtype=dtype)
    gradients = gradients_of(x)
    gradients.replace_from_hook([(np.array([1, 0], given_as), x)], "hook")
    np.testing.assert_array_equal(gradients.slab.views[0].astype(float), [1, 0])
    gradients.replace_from_hook([(IndexedSlices(np.array([1.0], given_as), [1]), x)], "hook")
    assert gradients.sparse[0].dtype == dtype
    assert gradients.sparse[0].dense_shape == (2,)
    assert list(gradients.dense) == []


@settings(max_examples=50, deadline=None)
@given(
    shape=st.lists(st.integers(0, 3), max_size=3).map(tuple), other=st.lists(st.integers(0, 3), max_size=3).map(tuple)
)
def test_fit_broadcasts_nothing(shape, other):
    x, gradient = Variable(np.zeros(shape, np.float32), name="x"), np.ones(other, np.float32)
    if shape == other:
        assert fit(gradient, x, "the gradient", casts=False) is gradient
    else:
        with pytest.raises(InvalidArgumentError, match="the gradient of 'x' has shape"):
            fit(gradient, x, "the gradient", casts=False)
