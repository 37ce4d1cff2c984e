"""The legacy family's own facts: golden numbers, what sparse gradients move, order of weights, configs, old lists."""

import copy
import json

import numpy as np
import pytest

from distopt import IndexedSlices, Variable
from distopt.optimizers import legacy
from distopt.optimizers.schedules import ExponentialDecay

RATE = {"learning_rate": 0.25}


def one(variable):
    return [(np.ones(variable.shape, variable.dtype), variable)]


FTRL = [
    ({}, 0, 3, [-2.60260963, -4.29698515], [-0.28432083, -0.56694895]),
    ({}, 1, 3, [-2.55607247, -3.98729396], [-0.28232238, -0.56096673]),
    ({"l1_regularization_strength": 0.001}, 1, 10, [-7.66718769, -10.91273689], [-0.93460727, -1.86147261]),
    ({"beta": 0.1}, 1, 10, [-6.096838, -9.162214], [-0.717741, -1.425132]),
    ({"l2_regularization_strength": 0.1, "beta": 0.1}, 1, 10, [-2.735487, -4.704625], [-0.294335, -0.586556]),
    (
        {"l1_regularization_strength": 0.001, "l2_regularization_strength": 2.0},
        1, 10, [-0.24059935, -0.46829352], [-0.02406147, -0.04830509],
    ),
    (
        {
            "l1_regularization_strength": 0.001,
            "l2_regularization_strength": 2.0,
            "l2_shrinkage_regularization_strength": 0.1,
        },
        1, 10, [-0.22578995, -0.44345796], [-0.14378493, -0.13229476],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("options", "start", "steps", "first", "second"), FTRL)
def test_ftrl_golden(options, start, steps, first, second):
    x, y = Variable(np.float32([1, 2]) * start), Variable(np.float32([4, 3]) * start)
    ftrl = legacy.Ftrl(3.0, initial_accumulator_value=0.1, **options)
    for _ in range(steps):
        ftrl.apply_gradients([([0.1, 0.2], x), ([0.01, 0.02], y)])
    np.testing.assert_allclose(x.numpy(), first, rtol=2e-6)
    np.testing.assert_allclose(y.numpy(), second, rtol=2e-6)


@pytest.mark.parametrize(("power", "twin"), [(0.0, legacy.SGD(3.0)), (-0.5, legacy.Adagrad(3.0))])
def test_ftrl_without_regularisation_is_gradient_descent_or_adagrad(power, twin):
    x, y = Variable([0.0, 0.0]), Variable([0.0, 0.0])
    ftrl = legacy.Ftrl(3.0, learning_rate_power=power)
    for _ in range(3):
        ftrl.apply_gradients([([0.1, -0.2], x)])
        twin.apply_gradients([([0.1, -0.2], y)])
    np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-5)


def test_the_power_of_ftrl_may_change():
    x, y = Variable([0.0]), Variable([0.0])
    ftrl, other = legacy.Ftrl(0.5), legacy.Ftrl(0.5, learning_rate_power=-0.25)
    ftrl.learning_rate_power = -0.25
    ftrl.apply_gradients(one(x))
    other.apply_gradients(one(y))
    assert float(x[0]) == float(y[0]) == pytest.approx(-0.5 / 1.1**0.25)


def test_the_first_step_of_ftrl_makes_the_weights_anew():
    x = Variable([1.0])
    legacy.Ftrl(1.0).apply_gradients([([0.0], x)])
    assert float(x[0]) == 0.0


DOCS = [
    (legacy.RMSprop(0.1), 9.683772),
    (legacy.Nadam(0.2), 9.7887),
    (legacy.Adamax(0.1), 9.9),
]


@pytest.mark.parametrize(("optimizer", "expected"), DOCS)
def test_doc_values(optimizer, expected):
    x = Variable([10.0])
    optimizer.minimize(lambda: (x**2) / 2.0, [x])
    assert float(x[0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [legacy.Adadelta(1.0, rho=1.0, epsilon=1.0), legacy.RMSprop(1.0, rho=0.0, epsilon=1.0, centered=True)],
)
def test_upstreams_sparse_minimum(optimizer):
    """Upstream's testMinimizeSparseResourceVariable: the gradient of (x · [4, 5])², a row of an embedding."""
    x = Variable([[1.0, 2.0]])
    optimizer.apply_gradients([(IndexedSlices([[2 * 14 * 4.0, 2 * 14 * 5.0]], [0], (1, 2)), x)])
    np.testing.assert_array_equal(x.numpy(), [[-111, -138]])


def test_epsilon_of_rmsprop_is_inside_the_root_with_momentum_only():
    x, y = Variable([0.0]), Variable([0.0])
    legacy.RMSprop(1.0, rho=0.0, epsilon=1.0).apply_gradients([([3.0], x)])
    legacy.RMSprop(1.0, rho=0.0, epsilon=1.0, momentum=lambda: 0.0).apply_gradients([([3.0], y)])
    np.testing.assert_allclose([x[0], y[0]], [-3 / 4, -3 / np.sqrt(10)], rtol=1e-6)


MOVES = {
    # row of the state without a gradient, row of the variable
    "SGD": (legacy.SGD, {"momentum": 0.5}, False, False),
    "Adam": (legacy.Adam, {}, True, True),
    "Adamax": (legacy.Adamax, {}, False, False),
    "Nadam": (legacy.Nadam, {}, True, False),
    "Adagrad": (legacy.Adagrad, {}, False, False),
    "Adadelta": (legacy.Adadelta, {}, False, False),
    "RMSprop": (legacy.RMSprop, {}, True, False),
    "RMSprop centered": (legacy.RMSprop, {"centered": True}, True, False),
    "RMSprop momentum": (legacy.RMSprop, {"momentum": 0.5, "centered": True}, False, False),
    "Ftrl": (legacy.Ftrl, {"l2_shrinkage_regularization_strength": 0.1}, False, False),
}


@pytest.mark.parametrize("name", MOVES)
def test_what_a_sparse_gradient_moves(name):
    """The rows that it names as the dense one with zeros elsewhere would; of the others what the table says."""
    cls, options, state_moves, variable_moves = MOVES[name]
    optimizers, variables, before = [cls(0.1, **options) for _ in range(2)], [], []
    for optimizer in optimizers:
        x = Variable(np.arange(1.0, 9.0).reshape(4, 2).astype(np.float32))
        variables.append(x)
        optimizer.apply_gradients([(np.linspace(-1, 2, 8, dtype=np.float32).reshape(4, 2), x)])
        before.append([x.numpy(), *(optimizer.get_slot(x, slot).numpy() for slot in optimizer.get_slot_names())])
    slices = IndexedSlices([[0.5, 1.5], [1.0, -1.0], [0.5, 0.0]], [3, 1, 3], (4, 2))
    for optimizer, x, gradient in zip(optimizers, variables, (slices, slices.to_dense()), strict=True):
        optimizer.apply_gradients([(gradient, x)])
    sparse, dense = (
        [x.numpy(), *(optimizer.get_slot(x, slot).numpy() for slot in optimizer.get_slot_names())]
        for optimizer, x in zip(optimizers, variables, strict=True)
    )
    for k, (mine, other, old) in enumerate(zip(sparse, dense, before[0], strict=True)):
        np.testing.assert_array_equal(mine[[1, 3]], other[[1, 3]])
        moves = state_moves if k else variable_moves
        np.testing.assert_array_equal(mine[[0, 2]], (other if moves else old)[[0, 2]])
        assert (other[[0, 2]] != old[[0, 2]]).any() or not moves


SHELF = {
    "Adamax": (legacy.Adamax, {"beta_1": 0.5, "beta_2": 0.75}, ["v/m", "w/m", "v/v", "w/v"]),
    "Nadam": (
        legacy.Nadam, {"beta_1": 0.5, "schedule_decay": 0.25, "decay": 0.5},
        ["Nadam/momentum_cache", "v/m", "w/m", "v/v", "w/v"],
    ),
    "Adagrad": (legacy.Adagrad, {"initial_accumulator_value": 0.5}, ["v/accumulator", "w/accumulator"]),
    "Adadelta": (legacy.Adadelta, {"rho": 0.5}, ["v/accum_grad", "w/accum_grad", "v/accum_var", "w/accum_var"]),
    "RMSprop": (
        legacy.RMSprop, {"rho": 0.5, "momentum": 0.25, "centered": True},
        ["v/rms", "w/rms", "v/momentum", "w/momentum", "v/mg", "w/mg"],
    ),
    "Ftrl": (
        legacy.Ftrl,
        {
            "learning_rate_power": -0.75, "initial_accumulator_value": 0.5, "l1_regularization_strength": 0.25,
            "l2_regularization_strength": 0.5, "l2_shrinkage_regularization_strength": 0.125, "beta": 0.75,
        },
        ["v/accumulator", "v/linear", "w/accumulator", "w/linear"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHELF)
def test_weights_in_keras_order_travel(name):
    cls, options, order = SHELF[name]
    variables = [Variable([1.0, 2.0], name="v"), Variable([3.0], name="w")]
    twins = [Variable(variable) for variable in variables]
    source, target = cls(**RATE, **options), cls(**RATE, **options)
    for _ in range(2):
        source.apply_gradients([pair for variable in variables for pair in one(variable)])
    assert [weight.name for weight in source.weights] == [f"{name}/iter", *order]
    target.apply_gradients([pair for twin in twins for pair in one(twin)])
    target.set_weights(source.get_weights())
    for variable, twin in zip(variables, twins, strict=True):
        twin.assign(variable)
    source.apply_gradients([([0.5, -0.5], variables[0])])
    target.apply_gradients([([0.5, -0.5], twins[0])])
    np.testing.assert_array_equal(variables[0].numpy(), twins[0].numpy())


@pytest.mark.parametrize("name", SHELF)
def test_config_round_trip(name):
    cls, options, _ = SHELF[name]
    base = {"name": "mine", "learning_rate": 0.25, "decay": 0.5}
    optimizer = cls(**base | options)
    optimizer.apply_gradients(one(Variable([1.0])))
    config = json.loads(json.dumps(optimizer.get_config()))
    epsilon = {} if name == "Ftrl" else {"epsilon": 1e-7}
    defaults = {"Nadam": {"beta_2": pytest.approx(0.999)}}.get(name, {})
    assert config == base | epsilon | defaults | options
    assert cls.from_config(config).get_config() == config
    if name != "Nadam":
        config = cls(ExponentialDecay(1.0, 10, 0.5)).get_config()
        assert isinstance(cls.from_config(config).learning_rate, ExponentialDecay)


@pytest.mark.parametrize("name", SHELF)
def test_the_list_of_keras_1_has_no_iterations(name):
    cls, options, order = SHELF[name]
    optimizer = cls(**RATE, **options)
    optimizer.apply_gradients([*one(Variable([1.0], name="v")), *one(Variable([1.0], name="w"))])
    slots = [np.float32(2.0) + 0 * weight.numpy() for weight in optimizer.weights[1:]]
    if name in ("RMSprop", "Adagrad", "Adadelta"):
        optimizer.set_weights(slots)
        assert [float(w.numpy().item()) for w in optimizer.weights] == [0.0] + [2.0] * len(order)
    else:
        with pytest.raises(ValueError, match=f"but the optimizer was expecting {len(order) + 1} weights"):
            optimizer.set_weights(slots)


@pytest.mark.parametrize("epsilon", [None, 0, 0.0])
def test_no_epsilon_is_the_default(epsilon):
    for name in set(SHELF) - {"Ftrl"}:
        assert SHELF[name][0](epsilon=epsilon).epsilon == 1e-7


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (legacy.Adagrad, {"initial_accumulator_value": -0.1}),
        (legacy.Adagrad, {"epsilon": -1.0}),
        (legacy.RMSprop, {"momentum": 1.5}),
        (legacy.RMSprop, {"rho": -0.5}),
        (legacy.Adadelta, {"rho": 2}),
        (legacy.Adamax, {"decay": -1}),
        (legacy.Nadam, {"learning_rate": ExponentialDecay(1.0, 10, 0.5)}),
        (legacy.Nadam, {"schedule_decay": -0.1}),
        (legacy.Ftrl, {"learning_rate_power": 0.5}),
        (legacy.Ftrl, {"initial_accumulator_value": -0.1}),
        (legacy.Ftrl, {"l1_regularization_strength": -0.1}),
        (legacy.Ftrl, {"l2_regularization_strength": -0.1}),
        (legacy.Ftrl, {"l2_shrinkage_regularization_strength": -0.1}),
        (legacy.Ftrl, {"beta": -0.1}),
    ],
)
def test_values_that_cannot_be_right(cls, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        cls(**options)


@pytest.mark.parametrize(
    ("optimizer", "what"),
    [
        (legacy.Adamax(beta_1=1.0), "beta_1 is 1 in float32"),
        (legacy.Nadam(beta_2=1.0), "beta_2 is 1 in float32"),
        (legacy.Ftrl(lambda: 0.0), "learning rate of 'Ftrl' is 0 in step 0"),
    ],
)
def test_values_that_would_make_nan_are_refused_before_anything_moves(optimizer, what):
    x = Variable([1.0])
    with pytest.raises(ValueError, match=what):
        optimizer.apply_gradients(one(x))
    assert (float(x[0]), len(optimizer.weights)) == (1.0, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cls", [legacy.Adam, legacy.Nadam])
def test_a_beta_that_is_1_as_a_float32_hyperparameter_says_so(cls, dtype):
    with pytest.raises(ValueError, match="beta_2 is 1 in float32"):
        cls(beta_2=0.99999999).apply_gradients(one(Variable([1.0], dtype=dtype)))


def test_ftrl_ignores_lr():
    with pytest.warns(UserWarning, match=r"Ftrl ignores lr=0\.5"):
        ftrl = legacy.Ftrl(0.25, lr=0.5)
    assert float(ftrl.learning_rate) == 0.25


def test_a_copy_does_not_forget_the_slots_of_variables_that_were_copied_after_it():
    v, adam = Variable([1.0], name="v"), legacy.Adam(0.1)
    adam.apply_gradients([(np.float32([1.0]), v)])
    later_adam, later = copy.deepcopy((adam, v))
    with pytest.raises(ValueError, match="copied after the optimizer"):
        later_adam.apply_gradients([(np.float32([1.0]), later)])
    earlier, earlier_adam = copy.deepcopy((v, adam))
    earlier_adam.apply_gradients([(np.float32([1.0]), earlier)])
    adam.apply_gradients([(np.float32([1.0]), v)])
    assert float(earlier[0]) == float(v[0])
