"""The legacy Nadam: its cache of momenta, its rate, its config."""

import numpy as np
import pytest

from distopt import IndexedSlices, Variable
from distopt.optimizers import legacy
from distopt.optimizers.schedules import ExponentialDecay


def one(variable):
    return [(np.ones(variable.shape, variable.dtype), variable)]


def product(schedule_decay, steps):
    return np.prod([0.9 * (1 - 0.5 * 0.96 ** (schedule_decay * t)) for t in range(1, steps + 1)])


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
def test_nadams_cache_is_advanced_once_a_step_and_has_the_first_variables_dtype():
    half, x, y = Variable([1.0], dtype="float16"), Variable([1.0]), Variable([[1.0], [2.0]])
    nadam = legacy.Nadam()
    nadam.apply_gradients([*one(x), *one(half), (IndexedSlices([[1.0]], [1], (2, 1)), y)])
    nadam.apply_gradients([*one(half), *one(x)])
    cache = nadam.weights[1]
    assert (cache.name, cache.shape, cache.dtype) == ("Nadam/momentum_cache", (), np.float32)
    assert float(cache) == pytest.approx(product(0.004, 2), rel=1e-3)
    nadam.apply_gradients([])
    assert (int(nadam.iterations), float(nadam.weights[1])) == (2, float(cache))


def test_nadams_cache_waits_for_the_end_of_the_step():
    class Evaluating(legacy.Nadam):
        def _resource_apply_dense(self, grad, var):  # without apply_state: evaluated for each variable
            super()._resource_apply_dense(grad, var)

    results = []
    for cls in (legacy.Nadam, Evaluating):
        x, y, nadam = Variable([1.0]), Variable([1.0]), cls(0.1)
        for _ in range(3):
            nadam.apply_gradients([*one(x), *one(y)])
        results.append((float(x[0]), float(y[0]), float(nadam.weights[1])))
    assert results[0] == results[1]
    assert results[0][2] == pytest.approx(product(0.004, 3), rel=1e-6)


def test_nadam_takes_no_schedule_later_and_decays_its_learning_rate():
    nadam = legacy.Nadam(0.5, decay=1.0)
    with pytest.raises(ValueError, match=r"Use distopt\.optimizers\.Nadam"):
        nadam.learning_rate = ExponentialDecay(1.0, 10, 0.5)
    x, y, plain = Variable([0.0]), Variable([0.0]), legacy.Nadam(0.5)
    for _ in range(2):
        before = float(x[0]), float(y[0])
        nadam.apply_gradients(one(x))
        plain.apply_gradients(one(y))
    assert float(x[0]) - before[0] == pytest.approx((float(y[0]) - before[1]) / 2, rel=1e-5)


def test_a_config_of_keras_nadam():
    upstream = {"name": "Nadam", "learning_rate": 0.5, "decay": 0.25, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
    nadam = legacy.Nadam.from_config(upstream)
    assert (nadam.schedule_decay, float(nadam.decay), upstream["decay"]) == (0.25, 0.0, 0.25)
