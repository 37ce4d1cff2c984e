"""Code written for Keras, ported by its imports: the optimizers of the API pages, and a legacy Adam of a user's own."""

import numpy as np
import pytest

from distopt import GradientTape, IndexedSlices, Variable, all_reduce, ops, optimizers, simulate
from distopt import losses as keras_losses
from distopt.optimizers import Optimizer, legacy
from distopt.optimizers.schedules import ExponentialDecay


class SGD(Optimizer):
    """The momentum SGD of the Keras 3 page; there get_config reads a ``nesterov`` that nobody set."""

    def __init__(self, momentum=0.9, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum

    def build(self, variables):
        super().build(variables)
        self.momentums = []
        for variable in variables:
            self.momentums.append(self.add_variable_from_reference(reference_variable=variable, name="momentum"))

    def update_step(self, gradient, variable, learning_rate):
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        m = self.momentums[self._get_variable_index(variable)]
        self.assign(
            m,
            ops.subtract(
                ops.multiply(m, ops.cast(self.momentum, variable.dtype)),
                ops.multiply(gradient, learning_rate),
            ),
        )
        self.assign_add(variable, m)

    def get_config(self):
        config = super().get_config()
        config.update({"momentum": self.momentum})
        return config


class LegacyAdam(legacy.Optimizer):
    """Adam as users wrote it for ``tf.keras.optimizers.legacy``: slots, apply_state, dense and sparse."""

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, name="LegacyAdam", **kwargs):
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("beta_1", beta_1)
        self._set_hyper("beta_2", beta_2)
        self.epsilon = epsilon

    def _create_slots(self, var_list):
        for var in var_list:
            self.add_slot(var, "m")
        for var in var_list:
            self.add_slot(var, "v")

    def _prepare_local(self, var_device, var_dtype, apply_state):
        super()._prepare_local(var_device, var_dtype, apply_state)
        local_step = ops.cast(self.iterations + 1, var_dtype)
        beta_1_t = ops.cast(self._get_hyper("beta_1"), var_dtype)
        beta_2_t = ops.cast(self._get_hyper("beta_2"), var_dtype)
        correction = ops.sqrt(1 - ops.power(beta_2_t, local_step)) / (1 - ops.power(beta_1_t, local_step))
        apply_state[(var_device, var_dtype)].update(
            {
                "lr": apply_state[(var_device, var_dtype)]["lr_t"] * correction,
                "epsilon": ops.convert_to_tensor(self.epsilon, var_dtype),
                "beta_1_t": beta_1_t,
                "beta_2_t": beta_2_t,
            }
        )

    def _resource_apply_dense(self, grad, var, apply_state=None):
        var_device, var_dtype = var.device, var.dtype
        coefficients = (apply_state or {}).get((var_device, var_dtype)) or self._fallback_apply_state(
            var_device, var_dtype
        )
        m, v = self.get_slot(var, "m"), self.get_slot(var, "v")
        beta_1_t, beta_2_t = coefficients["beta_1_t"], coefficients["beta_2_t"]
        m.assign(beta_1_t * m + (1 - beta_1_t) * grad, use_locking=self._use_locking)
        v.assign(beta_2_t * v + (1 - beta_2_t) * ops.square(grad), use_locking=self._use_locking)
        return var.assign_sub(
            coefficients["lr"] * m / (ops.sqrt(v) + coefficients["epsilon"]), use_locking=self._use_locking
        )

    def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
        var_device, var_dtype = var.device, var.dtype
        coefficients = (apply_state or {}).get((var_device, var_dtype)) or self._fallback_apply_state(
            var_device, var_dtype
        )
        m, v = self.get_slot(var, "m"), self.get_slot(var, "v")
        m.assign(m * coefficients["beta_1_t"], use_locking=self._use_locking)
        self._resource_scatter_add(m, indices, grad * (1 - coefficients["beta_1_t"]))
        v.assign(v * coefficients["beta_2_t"], use_locking=self._use_locking)
        self._resource_scatter_add(v, indices, grad * grad * (1 - coefficients["beta_2_t"]))
        return var.assign_sub(coefficients["lr"] * m / (ops.sqrt(v) + coefficients["epsilon"]))

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "learning_rate": self._serialize_hyperparameter("learning_rate"),
                "decay": self._initial_decay,
                "beta_1": self._serialize_hyperparameter("beta_1"),
                "beta_2": self._serialize_hyperparameter("beta_2"),
                "epsilon": self.epsilon,
            }
        )
        return config


def run(optimizer, dtype=np.float32, steps=4):
    """A few steps on a vector, a scalar and a table; what came out."""
    rng = np.random.default_rng(5)
    x, s = Variable(rng.normal(size=(3, 2)).astype(dtype)), Variable(np.array(1.0, dtype))
    table = Variable(np.zeros((4, 2), dtype))
    for _ in range(steps):
        slices = IndexedSlices(rng.normal(size=(3, 2)).astype(dtype), [1, 3, 1], (4, 2))
        gradients = [rng.normal(size=(3, 2)).astype(dtype), np.array(rng.normal(), dtype), slices]
        optimizer.apply_gradients(zip(gradients, [x, s, table], strict=True))
    return np.concatenate([v.numpy().ravel().astype(float) for v in (x, s, table)])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_keras_3_sgd_does_what_the_built_in_does(dtype):
    mine, ours = run(SGD(learning_rate=0.1), dtype), run(optimizers.SGD(0.1, momentum=0.9), dtype)
    np.testing.assert_allclose(mine, ours, rtol=1e-5, atol=1e-2 if dtype == np.float16 else 1e-6)
    np.testing.assert_array_equal(run(SGD(learning_rate=0.1), dtype), mine)


def test_the_config_of_the_keras_3_sgd_is_mended():
    config = SGD(learning_rate=0.25, momentum=0.5, name="mine").get_config()
    twin = SGD.from_config(config)
    assert (twin.get_config(), twin.momentum) == (config, 0.5)


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"decay": 0.5}, {"clipnorm": 0.5}, {"epsilon": 0.5}])
def test_the_legacy_adam_does_what_the_built_in_does(dtype, options):
    options = {"learning_rate": 0.1, "beta_2": 0.98, "epsilon": 1e-3} | options
    mine, ours = run(LegacyAdam(**options), dtype), run(legacy.Adam(**options), dtype)
    np.testing.assert_allclose(mine, ours, rtol=1e-4, atol=2e-2 if dtype == np.float16 else 1e-5)


def test_the_legacy_adam_is_saved_and_has_slots():
    x, adam = Variable([1.0], name="x"), LegacyAdam(learning_rate=ExponentialDecay(0.1, 10, 0.5))
    adam.minimize(lambda: x * x, [x])
    assert [w.name for w in adam.weights] == ["LegacyAdam/iter", "x/m", "x/v"]
    assert LegacyAdam.from_config(adam.get_config()).get_config() == adam.get_config()
    assert float(adam.beta_1) == pytest.approx(0.9)


@pytest.mark.parametrize("cls", [SGD, LegacyAdam])
def test_ports_on_two_replicas_equal_one_with_the_sum(cls):
    def halve(pairs):
        return [(gradient * 0.5, variable) for gradient, variable in pairs]

    alone = run(cls(learning_rate=0.1))
    for result in simulate(2, lambda: run(cls(learning_rate=0.1, gradient_transformers=[halve]))):
        np.testing.assert_allclose(result, alone, rtol=1e-6)


# The uses of the legacy page


def test_usage():
    opt = legacy.SGD(learning_rate=0.1)
    var1, var2 = Variable(2.0), Variable(5.0)
    loss = lambda: 3 * var1 * var1 + 2 * var2 * var2  # noqa: E731
    opt.minimize(loss, var_list=[var1, var2])
    np.testing.assert_allclose([float(var1), float(var2)], [2 - 1.2, 5 - 2.0], rtol=1e-6)


def test_usage_in_custom_training_loops():
    weights = []

    def model(x):
        if not weights:
            weights.extend([Variable(np.full((2, 1), 0.5, np.float32)), Variable([0.0])])
        return x @ weights[0] + weights[1]

    opt = legacy.SGD(learning_rate=0.1)
    mse = keras_losses.MeanSquaredError()
    data = [(np.ones((4, 2), np.float32), np.zeros((4, 1), np.float32))] * 20
    for x, y in data:
        opt.minimize(lambda x=x, y=y: mse(y, model(x)), lambda: weights)
    assert abs(float(model(np.ones((1, 2), np.float32))[0, 0])) < 1e-3


def test_processing_gradients_before_applying_them():
    opt, var_list = legacy.SGD(learning_rate=0.1), [Variable(3.0), Variable(4.0)]
    with GradientTape() as tape:
        loss = var_list[0] ** 2 + var_list[1] ** 3
    grads = tape.gradient(loss, var_list)
    processed_grads = [np.clip(g, -1.0, 1.0) for g in grads]
    opt.apply_gradients(zip(processed_grads, var_list, strict=True))
    np.testing.assert_allclose([float(v) for v in var_list], [2.9, 3.9], rtol=1e-6)


def test_use_with_a_strategy_aggregating_by_hand():
    def train():
        opt, var = legacy.SGD(learning_rate=0.1), Variable(0.0)
        gradient = all_reduce(np.float32(1.0)) / 4
        opt.apply_gradients([(gradient, var)], experimental_aggregate_gradients=False)
        return float(var)

    np.testing.assert_allclose(simulate(2, train), [-0.05, -0.05], rtol=1e-6)


def test_hyperparameters():
    opt = legacy.SGD(learning_rate=0.1)
    var1, var2 = Variable(1.0), Variable(1.0)
    loss = lambda: 3 * var1 + 2 * var2  # noqa: E731
    opt.minimize(loss, var_list=[var1, var2])
    opt.learning_rate = 0.05
    opt.minimize(loss, var_list=[var1, var2])
    np.testing.assert_allclose([float(var1), float(var2)], [1 - 0.45, 1 - 0.3], rtol=1e-6)


def test_callable_learning_rates():
    for learning_rate in (
        ExponentialDecay(initial_learning_rate=0.1, decay_steps=20, decay_rate=0.1),
        lambda: 0.1,
    ):
        var = Variable(np.ones(1, np.float32))
        opt = legacy.SGD(learning_rate=learning_rate)
        opt.minimize(lambda var=var: 3 * var, var_list=[var])
        np.testing.assert_allclose(var.numpy(), [0.7], rtol=1e-6)
