"""Second moments of variables of 16 bits: right with master weights, and warned of without, in both families."""

import numpy as np
import pytest

from distopt import Variable
from distopt.optimizers import SGD, Adagrad, Adam, Lamb, LossScaleOptimizer, Nadam, RMSprop, legacy


@pytest.mark.parametrize("cls", [Adam, Nadam])
def test_adam_and_nadam_on_float16_with_master_weights(cls):
    w, optimizer = Variable(np.zeros(4), dtype="float16"), cls(1e-5, master_weights=True)
    for _ in range(300):
        optimizer.apply_gradients([(np.full(4, 1e-4, np.float16), w)])
    np.testing.assert_allclose(w.numpy().astype(float), -0.003, rtol=0.02 if cls is Nadam else 0.01)


def test_second_moments_in_float16_are_warned_of_once():
    def build(optimizer, dtype):
        optimizer.build([Variable(np.ones((2, 2)), dtype=dtype), Variable([1.0], dtype=dtype)])

    for optimizer in (Adam(), Nadam(), Adagrad(), RMSprop(), LossScaleOptimizer(Adam())):
        with pytest.warns(UserWarning, match=r"second moments.*master_weights=True\) keeps them in float32") as caught:
            build(optimizer, "float16")
        assert len(caught) == 1
    with pytest.warns(UserWarning, match="Keep the variables in bfloat16 or float32"):
        build(Lamb(), "float16")
    for optimizer, dtype in (
        (Adam(master_weights=True), "float16"),
        (SGD(0.1, momentum=0.9), "float16"),
        (Adam(), "bfloat16"),
        (Adam(), "float32"),
    ):
        build(optimizer, dtype)


SQUARES = [
    legacy.Adadelta(),
    legacy.Adagrad(),
    legacy.Adam(),
    legacy.Ftrl(),
    legacy.Nadam(),
    legacy.NonFusedAdam(),
    legacy.RMSprop(),
]


@pytest.mark.parametrize("optimizer", SQUARES, ids=lambda optimizer: optimizer.name)
def test_the_legacy_family_warns_once_too(optimizer):
    one, other = (Variable([1.0], dtype="float16", name=name) for name in ("one", "other"))
    gradient = np.ones(1, np.float16)
    with pytest.warns(UserWarning, match=r"second moments, such as 'one/\w+', in float16"):
        optimizer.apply_gradients([(gradient, one)])
    optimizer.apply_gradients([(gradient, one), (gradient, other)])


@pytest.mark.parametrize("optimizer", [legacy.Adam(), legacy.SGD(momentum=0.9), legacy.Adamax()], ids=lambda o: o.name)
def test_the_legacy_family_keeps_silent_where_nothing_vanishes(optimizer):
    dtype = "bfloat16" if isinstance(optimizer, legacy.Adam) else "float16"
    w = Variable([1.0], dtype=dtype)
    optimizer.apply_gradients([(np.ones(1).astype(w.dtype), w)])


def test_a_legacy_loss_scale_does_not_hide_the_warning():
    w = Variable([1.0], dtype="float16")
    with pytest.warns(UserWarning, match="second moments"):
        legacy.LossScaleOptimizer(legacy.Adam(), initial_scale=1.0).minimize(lambda: w * w, [w])
