"""Limits on norms at the ends of the range, in every mode."""

import numpy as np
import pytest

import distopt
from distopt import Strategy, Variable
from distopt.optimizers import SGD


@pytest.mark.parametrize("update", ["replicated", "shared"])
@pytest.mark.parametrize(("dtype", "large"), [(np.float32, 1e37), (np.float64, 1e307)])
def test_clipnorm_at_the_ends_of_the_range_in_every_mode(placed, update, dtype, large):
    def step(limits):
        variables = [Variable(np.zeros(n, dtype)) for n in (1, 9000, 1)]
        sizes = (2.0, large, 0.5)
        gradients = [np.full(v.shape, size, dtype) for v, size in zip(variables, sizes, strict=True)]
        with Strategy(distopt.get_strategy().communicator, update=update).scope():
            SGD(1.0, **limits).apply_gradients(zip(gradients, variables, strict=True), items=1)
        return [float(-v.numpy()[-1]) for v in variables]

    for values in placed(step, {"clipnorm": 1.0}):
        np.testing.assert_allclose(values, [1.0, 9000**-0.5, 0.5], rtol=1e-5)
    for values in placed(step, {"global_clipnorm": 1.0}):
        np.testing.assert_allclose(values, [0.0, 9000**-0.5, 0.0], rtol=1e-5, atol=1e-30)
