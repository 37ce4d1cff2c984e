"""After the commit point a failure damages the optimizer, which says so."""

import numpy as np
import pytest

from distopt import IndexedSlices, Variable
from distopt.errors import DamagedOptimizerError, InvalidArgumentError
from distopt.optimizers import legacy

GOOD = [1.0, 1.0]


def test_hooks_must_be_callable(adam):
    with pytest.raises(InvalidArgumentError, match=r"gradient_aggregator.*can't be called"):
        adam(gradient_aggregator="sum")
    with pytest.raises(InvalidArgumentError, match=r"gradient_transformers.*can't be called"):
        adam(gradient_transformers=[3])
    for bad in (fail, 3, "abc"):
        with pytest.raises(InvalidArgumentError, match=r"gradient_transformers: .*expected a list.*\[function\]"):
            adam(gradient_transformers=bad)


def fail(pairs):
    raise ZeroDivisionError("in the hook")


NONSENSE = {
    "nothing": (lambda pairs: None, "returned NoneType: expected a list"),
    "gradients only": (lambda pairs: [g for g, _ in pairs], r"expected a list of \(gradient, variable\)"),
    "a strange variable": (lambda pairs: [(g, Variable([0.0])) for g, _ in pairs], "which was not in its list"),
    "a pair twice": (lambda pairs: [*pairs, pairs[0]], "returned it twice"),
    "None": (lambda pairs: [(None, v) for _, v in pairs], "is None: leave the pair out"),
    "another shape": (lambda pairs: [(np.zeros(7), v) for _, v in pairs], r"has shape \(7,\)"),
    "text": (lambda pairs: [("x", v) for _, v in pairs], "expected an array of numbers"),
    "complex": (lambda pairs: [(g * 1j, v) for g, v in pairs], "has dtype complex64"),
    "slices of another shape": (lambda pairs: [(IndexedSlices([[1.0]], [0], (1, 1)), pairs[0][1])], "has shape"),
    "failure": (fail, "in the hook"),
}


@pytest.mark.parametrize("hook", ["gradient_aggregator", "gradient_transformers"])
@pytest.mark.parametrize("nonsense", list(NONSENSE))
def test_a_failing_hook_damages_the_optimizer(adam, hook, nonsense):
    function, message = NONSENSE[nonsense]
    x = Variable([1.0, 2.0], name="x")
    optimizer = adam(**{hook: function if hook == "gradient_aggregator" else [function]})
    with pytest.raises((InvalidArgumentError, ZeroDivisionError), match=message):
        optimizer.apply_gradients([(GOOD, x)])
    np.testing.assert_array_equal(x.numpy(), [1, 2])
    with pytest.raises(DamagedOptimizerError, match=r"step 0: .*Restore the last checkpoint"):
        optimizer.apply_gradients([(GOOD, x)])
    assert int(optimizer.iterations) == 0


def test_a_failing_update_damages_the_optimizer():
    class Failing(legacy.SGD):
        def _resource_apply_dense(self, grad, var, apply_state=None):
            super()._resource_apply_dense(grad, var, apply_state)
            raise KeyboardInterrupt

    x, optimizer = Variable([1.0]), Failing(1.0)
    with pytest.raises(KeyboardInterrupt):
        optimizer.apply_gradients([([1.0], x)])
    for call in (lambda: optimizer.apply_gradients([([1.0], x)]), lambda: optimizer.apply_gradients([])):
        with pytest.raises(DamagedOptimizerError, match="KeyboardInterrupt"):
            call()


def test_a_failing_constraint_damages_the_optimizer(adam):
    x, optimizer = Variable([1.0], constraint=lambda w: w[:0]), adam()
    with pytest.raises(InvalidArgumentError, match="shape"):
        optimizer.apply_gradients([([1.0], x)])
    with pytest.raises(DamagedOptimizerError):
        optimizer.apply_gradients([([1.0], x)])
