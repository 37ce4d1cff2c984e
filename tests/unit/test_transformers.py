"""The norm of gradients, as the limits see it."""

import numpy as np
import pytest

from distopt import IndexedSlices, Variable
from distopt.errors import InvalidArgumentError
from distopt.optimizers import SGD
from distopt.transformers import global_norm


def test_the_global_norm_of_a_plain_list():
    assert global_norm([np.float32([3]), [[4.0]]]) == 5
    assert global_norm([3, np.array(4), None]) == 5
    assert global_norm([]) == 0
    assert global_norm([IndexedSlices([[3.0], [4.0]], [0, 0], (5, 1)), Variable([12.0])]) == 13


def test_the_global_norm_leaves_no_range():
    assert global_norm([np.array([3e200]), np.array([4e200])]) == pytest.approx(5e200)
    assert global_norm([np.full(2, 1e308)] * 50) == np.inf
    assert global_norm([np.array([60000.0] * 4, np.float16)]) == 120000
    assert np.isnan(global_norm([[float("nan")]]))


def test_a_transformer_sees_the_norm_that_the_limit_takes():
    seen = []

    def look(pairs):
        seen.append(global_norm(pairs))
        return pairs

    x, y = Variable([0.0]), Variable([0.0, 0.0])
    SGD(1.0, global_clipnorm=2.5, gradient_transformers=[look]).apply_gradients([([3.0], x), ([0.0, 4.0], y)])
    assert seen == [2.5]


def test_what_is_no_gradient_is_refused():
    with pytest.raises(InvalidArgumentError, match="global_norm: a gradient"):
        global_norm(["a"])
