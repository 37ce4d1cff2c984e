"""State from one family into the other and back."""

import numpy as np
import pytest

from distopt import Variable, optimizers
from distopt.errors import InvalidArgumentError
from distopt.optimizers import SGD, Adam, convert_weights, legacy

OPTIONS = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True}),
    ("Adamax", {}),
    ("Nadam", {}),
    ("Adagrad", {}),
    ("Adadelta", {}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Ftrl", {}),
]
SAME_FORMULA = ("SGD", "Adam", "Adamax", "Adadelta", "Ftrl")


def made():
    return [Variable(np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), name="w"), Variable([1.0, 2.0], name="b")]


def train(optimizer, variables, steps=range(2)):
    for k in steps:
        optimizer.apply_gradients([(np.cos(v.numpy() + k), v) for v in variables])
    return [v.numpy() for v in variables]


def moved(weights, source, target):
    target.set_weights(convert_weights(weights, source, target))
    return target


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_there_and_back_it_trains_as_before(name, options):
    variables = made()
    old = getattr(legacy, name)(learning_rate=0.1, **options)
    start = train(old, variables)
    weights = old.get_weights()
    new = getattr(optimizers, name)(learning_rate=0.1, **options)
    new.build(variables)
    moved(weights, old, new)
    again = moved(new.get_weights(), new, getattr(legacy, name)(learning_rate=0.1, **options))
    for there, back in zip(weights, again.get_weights(), strict=True):
        np.testing.assert_array_equal(there, back)
    ends = []
    for optimizer in (old, again, new) if name in SAME_FORMULA else (old, again):
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        ends.append(train(optimizer, variables, range(2, 4)))
    for one, other in zip(ends[0], ends[1], strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(ends[0], ends[-1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_each_array_goes_to_the_slot_of_its_name_and_variable():
    old, new = legacy.Adam(amsgrad=True), Adam(amsgrad=True)
    w, b = made()
    new.build([w, b])
    labels = ["m w", "m b", "v w", "v b", "vhat w", "vhat b"]
    weights = [np.int64(7), *(np.full(v.shape, k) for k, v in enumerate([w, b, w, b, w, b]))]
    result = dict(zip([v.name.split("/")[-1] for v in new.variables], convert_weights(weights, old, new), strict=True))
    assert int(result.pop("iteration")) == 7
    assert result.pop("learning_rate") == np.float32(0.001), "the present one: the legacy family does not save it"
    assert {name: float(value.flat[0]) for name, value in result.items()} == {
        "w_momentum": labels.index("m w"),
        "b_momentum": labels.index("m b"),
        "w_velocity": labels.index("v w"),
        "b_velocity": labels.index("v b"),
        "w_velocity_hat": labels.index("vhat w"),
        "b_velocity_hat": labels.index("vhat b"),
    }
    assert {value.dtype.name for value in result.values()} == {"float32"}


def test_the_same_variables_are_found_in_another_order():
    w, b = made()
    old, new = legacy.SGD(0.1, momentum=0.9), SGD(0.1, momentum=0.9)
    old.apply_gradients([(np.ones(v.shape, np.float32), v) for v in (b, w)])
    new.build([w, b])
    result = convert_weights(old.get_weights(), old, new)
    assert [value.shape for value in result] == [(), (), (2, 3), (2,)]


def test_variables_of_ones_own_by_their_order():
    there, here = made(), made()
    old, new = legacy.Nadam(), optimizers.Nadam(0.5)
    train(old, there)
    new.build(here)
    moved(old.get_weights(), old, new)
    assert int(new.iterations) == 2
    assert float(new.learning_rate) == 0.5
    cache = {v.name.split("/")[-1]: float(v) for v in [*old.weights, *new.variables] if v.shape == ()}
    assert cache["momentum_cache"] == cache["u_product"] < 1


def test_within_a_family_the_learning_rate_comes_too():
    variables = made()
    one, other = Adam(0.25), optimizers.AdamW(0.5, weight_decay=0.1)
    train(one, variables)
    assert float(moved(one.get_weights(), one, other).learning_rate) == 0.25
    nested = moved(one.get_weights(), one, optimizers.LossScaleOptimizer(Adam(0.5), initial_scale=8.0))
    assert (int(nested.iterations), float(nested.learning_rate), float(nested.dynamic_scale)) == (2, 0.25, 8.0)
    np.testing.assert_array_equal(moved(nested.get_weights(), nested, Adam()).get_weights()[2], one.get_weights()[2])


def test_a_legacy_loss_scale_has_the_weights_of_its_inner_optimizer():
    variables = made()
    old = legacy.LossScaleOptimizer(legacy.SGD(0.5, momentum=0.5))
    old.minimize(lambda: variables[1] * 2.0, variables[1:])
    new = moved(old.get_weights(), old, optimizers.LossScaleOptimizer(SGD(0.5, momentum=0.5)))
    assert [float(np.max(v)) for v in new.inner_optimizer.get_weights()] == [1, 0.5, -1]


def test_accumulation_counts_calls():
    variables = made()
    old, new = legacy.SGD(0.1), SGD(0.1, gradient_accumulation_steps=4)
    train(old, variables)
    new.build(variables)
    weights = convert_weights(old.get_weights(), old, new)
    assert int(weights[0]) == 8
    new.set_weights(weights)
    assert new.iterations == 2
    assert [int(v) for v in convert_weights(new.get_weights(), new, old)] == [2]
    weights[0] = np.int64(9)
    with pytest.raises(InvalidArgumentError, match="9 calls of 4 each for a step end within one"):
        convert_weights(weights, new, old)


def test_custom_optimizers_of_both_families_meet_by_their_names():
    def build(self, variables):
        optimizers.Optimizer.build(self, variables)
        for variable in variables:
            self.add_variable_from_reference(variable, "sum")

    def create_slots(self, var_list):
        for var in var_list:
            self.add_slot(var, "sum")

    new_class = type("Sums", (optimizers.Optimizer,), {"build": build})
    old_class = type("Sums", (legacy.Optimizer,), {"_create_slots": create_slots})
    new, old = new_class(0.5), old_class("sums")
    new.build(made())
    result = convert_weights([3, 0.5, np.ones((2, 3)), np.ones(2)], new, old)
    assert [(value.shape, float(np.max(value))) for value in result] == [((), 3), ((2, 3), 1), ((2,), 1)]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (lambda: legacy.SGD(), lambda: Adam(), "'SGD' is SGD and 'adam.*' is Adam: the state of one algorithm"),
        (lambda: Adam(amsgrad=True), lambda: Adam(), r"keeps \['velocity_hat'\], and .*same options \(momentum"),
        (lambda: SGD(), lambda: legacy.SGD(momentum=0.5), r"'SGD' keeps \['momentum'\], and 'sgd.*' not"),
        (lambda: SGD(use_ema=True), lambda: legacy.SGD(), r"keeps \['average'\]"),
        (lambda: "adam", lambda: Adam(), "received 'adam': expected an optimizer of distopt. For arrays from Keras"),
    ],
)
def test_what_can_not_be_converted(source, target, message):
    one, other = source(), target()
    if isinstance(one, optimizers.Optimizer):
        one.build(made())
    weights = one.get_weights() if one != "adam" and not isinstance(one, legacy.Optimizer) else []
    with pytest.raises(InvalidArgumentError, match=message):
        convert_weights(weights, one, other)


def test_lists_that_do_not_fit():
    w, b = made()
    one, other = Adam(), legacy.Adam()
    with pytest.raises(InvalidArgumentError, match=r"knows its variables: call build\(variables\) of 'adam"):
        convert_weights([], one, other)
    one.build([w, b])
    with pytest.raises(InvalidArgumentError, match=r"received 2 arrays, and 'adam.*' keeps 6 \(\['iteration'"):
        convert_weights([1, 2], one, other)
    weights = one.get_weights()
    weights[2] = np.zeros(5)
    with pytest.raises(InvalidArgumentError, match=r"shape \(5,\) for 'w/m' of 'Adam', which has shape \(2, 3\)"):
        convert_weights(weights, one, other)
    fewer = legacy.Adam()
    train(fewer, [w])
    with pytest.raises(InvalidArgumentError, match="or not for as many variables"):
        convert_weights(one.get_weights(), one, fewer)
