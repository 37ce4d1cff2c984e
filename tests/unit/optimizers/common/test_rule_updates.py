"""The flat path (one kernel call for many variables) and the path per variable give the same bits."""

import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distopt import IndexedSlices, Variable, optimizers
from distopt.optimizers import legacy
from distopt.optimizers.common import rule_updates


def per_variable(cls):
    """The same optimizer with its update overridden: called per variable."""
    if issubclass(cls, legacy.Optimizer):

        class Overriding(cls):
            def _resource_apply_dense(self, grad, var, apply_state=None):
                return super()._resource_apply_dense(grad, var, apply_state)

            def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
                return super()._resource_apply_sparse(grad, var, indices, apply_state)
    else:

        class Overriding(cls):
            def update_step(self, gradient, variable, learning_rate):
                super().update_step(gradient, variable, learning_rate)

    return Overriding


OPTIMIZERS = {
    "sgd": (optimizers.SGD, {}),
    "nesterov": (optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (optimizers.Adam, {}),
    "amsgrad": (optimizers.Adam, {"amsgrad": True}),
    "legacy sgd": (legacy.SGD, {}),
    "legacy momentum": (legacy.SGD, {"momentum": 0.9, "decay": 0.1}),
    "legacy adam": (legacy.Adam, {"beta_2": 0.98}),
    "legacy amsgrad": (legacy.NonFusedAdam, {"beta_2": 0.98, "amsgrad": True}),
}
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
SHAPES = [(), (0,), (1,), (3,), (17, 2), (2, 1, 5)]
VARIABLE = st.tuples(st.sampled_from(SHAPES), st.sampled_from(DTYPES), st.booleans())


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@settings(max_examples=60, deadline=None)
@given(
    which=st.sampled_from(list(OPTIMIZERS)),
    kinds=st.lists(VARIABLE, min_size=1, max_size=6),
    clip=st.sampled_from([{}, {"clipnorm": 0.5}, {"global_clipnorm": 0.5}]),
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 3),
)
def test_flat_and_per_variable_are_the_same_bits(which, kinds, clip, seed, steps):
    cls, options = OPTIMIZERS[which]
    rng = np.random.default_rng(seed)
    starts = [rng.normal(size=shape).astype(dtype) for shape, dtype, _ in kinds]
    both = []
    for kind in (cls, per_variable(cls)):
        variables, generator = [Variable(start) for start in starts], np.random.default_rng(seed)
        optimizer = kind(learning_rate=0.1, **options, **clip)
        for _ in range(steps):
            optimizer.apply_gradients(
                [(gradient(generator, v, k[2]), v) for v, k in zip(variables, kinds, strict=True)]
            )
        own = optimizer.weights if isinstance(optimizer, legacy.Optimizer) else optimizer.variables
        both.append([v.numpy() for v in (*variables, *own)])
    for flat, single in zip(*both, strict=True):
        assert flat.tobytes() == single.tobytes()


def gradient(rng, variable, sparse):
    if not (sparse and variable.shape and variable.shape[0]):
        return rng.normal(size=variable.shape).astype(variable.dtype)
    rows = rng.integers(0, variable.shape[0], size=3)
    return IndexedSlices(rng.normal(size=(3, *variable.shape[1:])).astype(variable.dtype), rows, variable.shape)


@pytest.mark.parametrize("which", list(OPTIMIZERS))
def test_an_override_is_called_for_every_variable(which):
    cls, options = OPTIMIZERS[which]
    calls = []

    class Counting(per_variable(cls)):
        if issubclass(cls, legacy.Optimizer):

            def _resource_apply_dense(self, grad, var, apply_state=None):
                calls.append(var)
                return super()._resource_apply_dense(2 * grad, var, apply_state)
        else:

            def update_step(self, gradient, variable, learning_rate):
                calls.append(variable)
                super().update_step(2 * gradient, variable, learning_rate)

    xs, ys = [[Variable([1.0, 2.0]), Variable(3.0)] for _ in range(2)]
    optimizer, plain = Counting(learning_rate=0.5, **options), cls(learning_rate=0.5, **options)
    for _ in range(2):
        optimizer.apply_gradients([([1.0, 1.0], xs[0]), (1.0, xs[1])])
        plain.apply_gradients([([2.0, 2.0], ys[0]), (2.0, ys[1])])
    assert [id(v) for v in calls] == [id(v) for v in xs] * 2
    for x, y in zip(xs, ys, strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy())


def test_two_hundred_small_variables_are_one_kernel_call(monkeypatch):
    calls, real_update = [], rule_updates.update

    def counting(rule, parameter, gradient, slots, scalars, spans):
        calls.append(spans.shape)
        real_update(rule, parameter, gradient, slots, scalars, spans)

    monkeypatch.setattr(rule_updates, "update", counting)
    variables = [Variable(np.zeros(k % 7, np.float32)) for k in range(200)]
    optimizers.SGD(1.0).apply_gradients([(np.ones(v.shape, np.float32), v) for v in variables])
    assert calls == [(200, 3)]
    assert all((v.numpy() == -1).all() for v in variables)


def test_hooks_do_not_switch_the_flat_path_off_and_see_the_slab():
    variables = [Variable([0.0]) for _ in range(3)]
    sgd = legacy.SGD(1.0, gradient_transformers=[lambda pairs: pairs[::-1]])
    sgd.apply_gradients([([float(k)], v) for k, v in enumerate(variables)])
    assert [float(v[0]) for v in variables] == [0.0, -1.0, -2.0]


@pytest.mark.parametrize("cls", [optimizers.Adam, legacy.Adam])
def test_the_time_of_the_first_step_is_linear_in_the_number_of_variables(cls):
    def first_step(count):
        variables = [Variable([0.0]) for _ in range(count)]
        pairs = [(np.ones(1, np.float32), v) for v in variables]
        calls = 0

        def count_call(frame, event, argument):
            nonlocal calls
            calls += 1

        sys.setprofile(count_call)
        try:
            cls().apply_gradients(pairs)
        finally:
            sys.setprofile(None)
        return calls

    first_step(10)
    assert first_step(1600) < 5 * first_step(400)
