"""Optimizers that were written for Keras 2.11 to 2.15 run: ``update_step(self, gradient, variable)`` tells them."""

import copy
import pickle

import numpy as np
import pytest

from distopt import IndexedSlices, Variable, num_replicas, replica_index, simulate
from distopt.optimizers import Adam, Optimizer, deserialize, serialize
from distopt.optimizers.common.access import family_of
from distopt.optimizers.schedules import ExponentialDecay


class FormerAdam(Optimizer):
    """Adam, written as optimizers were then."""

    def __init__(
        self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7,
        weight_decay=None, clipnorm=None, use_ema=False, ema_momentum=0.99, ema_overwrite_frequency=None,
        jit_compile=True, name="FormerAdam", **kwargs,
    ):  # fmt: skip
        super().__init__(
            name=name, weight_decay=weight_decay, clipnorm=clipnorm, use_ema=use_ema, ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency, jit_compile=jit_compile, **kwargs,
        )  # fmt: skip
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, var_list):
        super().build(var_list)
        if hasattr(self, "_built") and self._built:
            return
        self._built = True
        self._momentums, self._velocities = [], []
        for var in var_list:
            self._momentums.append(self.add_variable_from_reference(model_variable=var, variable_name="m"))
            self._velocities.append(
                self.add_variable_from_reference(
                    model_variable=var, variable_name="v", initial_value=np.zeros(var.shape, var.dtype)
                )
            )

    def update_step(self, gradient, variable):
        lr, step = self.learning_rate, int(self.iterations + 1)
        key = self._var_key(variable)
        m, v = (slots[self._index_dict[key]] for slots in (self._momentums, self._velocities))
        alpha = np.float32(lr * np.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step))
        if isinstance(gradient, IndexedSlices):
            gradient = gradient.to_dense()
        m.assign_add((gradient - m) * np.float32(1 - self.beta_1))
        v.assign_add((np.square(gradient) - v) * np.float32(1 - self.beta_2))
        variable.assign_sub(m * alpha / (np.sqrt(v) + np.float32(self.epsilon)))

    def get_config(self):
        config = super().get_config()
        config.update(
            learning_rate=self._serialize_hyperparameter(self._learning_rate), beta_1=self.beta_1, beta_2=self.beta_2,
            epsilon=self.epsilon,
        )  # fmt: skip
        return config


def trained(make, steps=5, count=1):
    def train():
        rng = np.random.default_rng(1)
        x, table = (Variable(rng.normal(size=(6, 2)).astype(np.float32), name=name) for name in ("x", "table"))
        optimizer, share = make(), np.float32(1 / num_replicas())
        for _ in range(steps):
            rows = IndexedSlices(rng.normal(size=(2, 2)).astype(np.float32) * share, [1, 1], (6, 2))
            optimizer.apply_gradients([(rng.normal(size=(6, 2)).astype(np.float32) * share, x), (rows, table)])
        return x.numpy(), table.numpy()

    return simulate(count, train)[0]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("rate", "options"),
    [
        (0.1, {}),
        (0.1, {"weight_decay": 0.05, "clipnorm": 0.5}),
        (ExponentialDecay(0.1, 2, 0.5), {"weight_decay": 0.05}),
    ],
)
def test_it_steps_as_the_same_optimizer_of_keras_3(rate, options, count):
    mine = trained(lambda: FormerAdam(rate, **options), count=count)
    theirs = trained(lambda: Adam(rate, **options))
    np.testing.assert_allclose(mine, theirs, rtol=2e-6, atol=1e-7)


def test_its_weights_leave_out_the_learning_rate():
    x, optimizer = Variable([1.0], name="x"), FormerAdam(0.1)
    optimizer.apply_gradients([([1.0], x)])
    assert [v.name.rpartition("/")[2] for v in optimizer.variables] == ["iteration", "x_m", "x_v"]
    assert optimizer.variables() is not None
    other = FormerAdam(0.1)
    other.build([x])
    other.set_weights(optimizer.get_weights())
    assert int(other.iterations) == 1


def test_attributes_are_state_that_no_list_of_weights_has():
    class Counting(FormerAdam):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seen = Variable(0.0, name="seen")

        def build(self, var_list):
            super().build(var_list)
            self.more = [Variable(1.0, name="more")]

    optimizer = Counting(name="counting")
    optimizer.build([Variable([1.0], name="x")])
    assert [v.name for v in optimizer.variables] == ["iteration", "counting/x_m", "counting/x_v"]
    names = [v.name for v in family_of(optimizer).state()]
    assert names == ["iteration", "counting/x_m", "counting/x_v", "seen", "more"]


def test_the_learning_rate_has_two_names():
    x, optimizer = Variable([0.0]), FormerAdam(0.5)
    optimizer.build([x])
    assert float(optimizer.lr) == 0.5
    optimizer.lr = 0.25
    assert float(optimizer.learning_rate) == 0.25
    optimizer.learning_rate.assign(0.125)
    assert float(optimizer._learning_rate) == 0.125
    scheduled = FormerAdam(ExponentialDecay(1.0, 1, 0.5))
    assert float(scheduled.learning_rate) == float(scheduled._current_learning_rate) == 1.0
    with pytest.raises(TypeError, match="not settable"):
        scheduled.learning_rate = 0.1


@pytest.mark.parametrize("rate", [0.25, ExponentialDecay(1.0, 2, 0.5)])
def test_its_config(rate):
    optimizer = FormerAdam(rate, beta_1=0.5, weight_decay=0.1, name="mine")
    config = optimizer.get_config()
    assert config["is_legacy_optimizer"] is False
    again = FormerAdam.from_config(config)
    assert (again.beta_1, again.weight_decay, again.name) == (0.5, 0.1, "mine")
    assert float(again.learning_rate) == float(optimizer.learning_rate)
    written = deserialize(serialize(optimizer), custom_objects={"FormerAdam": FormerAdam})
    assert written.get_config() == config


def test_the_name_may_come_first_and_nothing_else_is_needed():
    class Least(Optimizer):
        def __init__(self):
            super().__init__("least", 0.0)

        def update_step(self, gradient, variable):
            variable.assign_sub(gradient)

    optimizer, x = Least(), Variable(1.0)
    optimizer.apply_gradients([(1.0, x)], "a name", skip_gradients_aggregation=True)
    assert (optimizer.name, float(x)) == ("least", 0.0)


def test_averages_begin_with_the_weights():
    class Plain(FormerAdam):
        def update_step(self, gradient, variable):
            variable.assign_sub(gradient)

    x = Variable(2.0)
    optimizer = Plain(1.0, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3)
    for _ in range(3):
        optimizer.apply_gradients([(1.0, x)])
    assert float(x) == -0.125


def test_slots_of_another_shape():
    x, optimizer = Variable([[1.0, 2.0]], name="x"), FormerAdam()
    optimizer.build([x])
    rows = optimizer.add_variable_from_reference(x, "rows", shape=(1,))
    ones = optimizer.add_variable_from_reference(x, "ones", initial_value=[[1.0, 1.0]])
    assert (rows.shape, ones.numpy().tolist()) == ((1,), [[1.0, 1.0]])
    with pytest.raises(TypeError, match="model_variable"):
        optimizer.add_variable_from_reference(variable_name="m")
    with pytest.raises(TypeError, match="'initial'"):
        optimizer.add_variable_from_reference(x, "m", initial=3)


def test_gradients_and_their_sum_can_be_made_by_methods():
    class Own(FormerAdam):
        def compute_gradients(self, loss, var_list, tape=None):
            return [(g * 2, v) for g, v in super().compute_gradients(loss, var_list, tape)]

        def aggregate_gradients(self, grads_and_vars):
            return [(g / num_replicas(), v) for g, v in super().aggregate_gradients(grads_and_vars)]

        def update_step(self, gradient, variable):
            variable.assign_sub(gradient)

    def train():
        x = Variable([0.0])
        Own().minimize(lambda: (x * float(replica_index() + 1)).sum(), [x])
        return float(x[0])

    assert train() == -2.0
    assert simulate(2, train) == [-3.0, -3.0]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies(how):
    x, optimizer = Variable([1.0]), FormerAdam(0.1)
    optimizer.apply_gradients([([1.0], x)])
    y, twin = how((x, optimizer))
    for each, variable in ((optimizer, x), (twin, y)):
        each.apply_gradients([([0.5], variable)])
    assert float(x[0]) == float(y[0])


def test_a_first_value_of_another_shape_keeps_it():
    optimizer = Optimizer()
    x = Variable([3.0, 4.0], name="x")
    norm = optimizer.add_variable_from_reference(
        model_variable=x, variable_name="n", initial_value=np.linalg.norm(x.numpy())
    )
    assert (norm.shape, float(norm)) == ((), 5.0)
