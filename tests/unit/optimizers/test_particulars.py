"""What is particular to one elementwise optimizer of the Keras 3 family; what all do is in the table."""

import numpy as np
import pytest

from distopt import Variable, get_strategy, optimizers, simulate
from distopt.errors import InvalidArgumentError
from distopt.optimizers import Adagrad, Adam, AdamW, Ftrl, Lion, Nadam, RMSprop, ScheduleFreeAdamW


def momenta(steps):
    """The product of Nadam's momenta of so many steps."""
    return np.prod([0.9 * (1 - 0.5 * 0.96**t) for t in range(1, steps + 1)])


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
def test_nadams_product_advances_once_per_step_that_is_done():
    variables = [Variable([1.0, 2.0], dtype="float16"), Variable([3.0])]
    nadam = Nadam()
    for _ in range(3):
        nadam.apply([np.ones(v.shape) for v in variables], variables)
    with pytest.raises(ValueError, match="No gradients"):
        nadam.apply([None, None], variables)
    product = nadam.variables[-1]
    assert (product.name, product.shape, product.dtype) == ("u_product", (), np.float32)
    assert float(product) == pytest.approx(momenta(3), rel=1e-6)


def test_nadams_product_travels_with_the_weights():
    x, y = Variable([1.0]), Variable([1.0])
    first, second = Nadam(0.1), Nadam(0.1)
    first.apply_gradients([([1.0], x)])
    second.build([y])
    second.set_weights(first.get_weights())
    y.assign(x)
    for optimizer, variable in ((first, x), (second, y)):
        optimizer.apply_gradients([([-2.0], variable)])
        assert float(optimizer.variables[-1]) == pytest.approx(momenta(2), rel=1e-6)
    assert float(y[0]) == float(x[0])


def test_slots_of_rmsprop_lie_kind_by_kind():
    a, b = Variable([1.0], name="a"), Variable([1.0], name="b")
    rmsprop = RMSprop(momentum=0.5, centered=True, name="r")
    rmsprop.build([a, b])
    kinds = ("velocity", "momentum", "average_gradient")
    assert [v.name for v in rmsprop.variables[2:]] == [f"r/{v}_{kind}" for kind in kinds for v in "ab"]


def test_accumulators_begin_at_their_value():
    adagrad, ftrl = Adagrad(initial_accumulator_value=0.5), Ftrl(initial_accumulator_value=0.25)
    for optimizer, value in ((adagrad, 0.5), (ftrl, 0.25)):
        optimizer.build([Variable([1.0, 2.0])])
        assert optimizer.variables[2].numpy().tolist() == [value, value]


def test_ftrl_without_anything_accumulated_gives_zero_and_not_nan():
    x = Variable([1.0, 1.0])
    Ftrl(0.5, initial_accumulator_value=0.0).apply_gradients([([0.0, 2.0], x)])
    np.testing.assert_allclose(x.numpy(), [0.0, 0.5])


def test_ftrl_refuses_a_learning_rate_of_zero_before_it_changes_anything():
    x = Variable([1.0])
    ftrl = Ftrl(lambda: 0.0)
    with pytest.raises(InvalidArgumentError, match="step 0: the learning rate is 0, and Ftrl divides by it"):
        ftrl.apply_gradients([([1.0], x)])
    assert (float(x[0]), int(ftrl.iterations)) == (1.0, 0)


def test_lion_stands_still_at_zero_and_passes_nan_on():
    x = Variable([1.0, 1.0, -0.0, 1.0, 1.0])
    lion = Lion(0.5)
    lion.apply_gradients([([1e-30, -1e30, 0.0, -0.0, np.nan], x)])
    np.testing.assert_array_equal(x.numpy(), [0.5, 1.5, 0.0, 1.0, np.nan])
    lion.apply_gradients([([0.0] * 5, x)])
    np.testing.assert_array_equal(x.numpy(), [0.0, 2.0, 0.0, 1.0, np.nan], "the momentum goes on")


def test_schedule_free_begins_at_the_variable():
    x = Variable([1.0, 2.0])
    optimizer = ScheduleFreeAdamW(0.5, warmup_steps=2)
    optimizer.build([x])
    z = optimizer.variables[2]
    assert z.numpy().tolist() == [1.0, 2.0]
    optimizer.apply_gradients([([4.0, -4.0], x)])
    np.testing.assert_allclose([z.numpy(), x.numpy()], [[0.75, 2.25]] * 2, rtol=1e-6, err_msg="half of 0.5, warming up")


@pytest.mark.filterwarnings("ignore:replica 1 began with other values")
def test_schedule_free_begins_at_the_values_of_replica_0():
    def train():
        x = Variable([1.0 + get_strategy().replica_index])
        optimizer = ScheduleFreeAdamW(0.5)
        optimizer.apply_gradients([([1.0], x)])
        return float(optimizer.variables[2][0]), float(x[0])

    assert simulate(2, train) == [(0.5, 0.5)] * 2


def test_adamw_is_adam_where_nothing_decays():
    x, y = Variable([1.0, 2.0]), Variable([1.0, 2.0])
    AdamW(0.1, weight_decay=0).apply_gradients([([1.0, -1.0], x)])
    Adam(0.1).apply_gradients([([1.0, -1.0], y)])
    np.testing.assert_array_equal(x.numpy(), y.numpy())
    with pytest.raises(InvalidArgumentError, match="weight_decay=None"):
        AdamW(weight_decay=None)


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("Adadelta", "rho", 1.5),
        ("Adagrad", "initial_accumulator_value", -0.1),
        ("Adamax", "beta_1", 1),
        ("Nadam", "beta_2", 1.0),
        ("RMSprop", "momentum", -0.1),
        ("RMSprop", "epsilon", "small"),
        ("Ftrl", "learning_rate_power", 0.5),
        ("Ftrl", "initial_accumulator_value", -1),
        ("Ftrl", "l1_regularization_strength", -1),
        ("Ftrl", "l2_regularization_strength", -1),
        ("Ftrl", "l2_shrinkage_regularization_strength", -1),
        ("Lion", "beta_1", 0),
        ("Lion", "beta_1", 1.1),
        ("ScheduleFreeAdamW", "beta_1", 0),
        ("ScheduleFreeAdamW", "warmup_steps", -1),
    ],
)
def test_values_out_of_range_are_refused(name, argument, value):
    with pytest.raises(InvalidArgumentError, match=f"{name}.*{argument}.*{value}"):
        getattr(optimizers, name)(**{argument: value})
