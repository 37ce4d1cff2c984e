"""Weights are left out of the decay where they decay: in the inner optimizers."""

import pytest

from distopt import Variable, optimizers
from distopt.errors import InvalidArgumentError


@pytest.mark.parametrize(
    "wrap", [optimizers.LossScaleOptimizer, lambda inner: optimizers.MultiOptimizer(optimizers.OptimizerMap(inner))]
)
def test_a_wrapper_refuses_and_its_inner_optimizer_does_it(wrap):
    inner, w = optimizers.SGD(1.0, weight_decay=0.5), Variable([1.0], name="bias")
    wrapper = wrap(inner)
    with pytest.raises(InvalidArgumentError, match="call exclude_from_weight_decay on them"):
        wrapper.exclude_from_weight_decay(var_names=["bias"])
    inner.exclude_from_weight_decay(var_names=["bias"])
    wrapper.apply_gradients([([0.0], w)])
    assert w.numpy().tolist() == [1.0]
