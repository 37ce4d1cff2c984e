"""What the base of the Keras 3 family adds to every optimizer: decay, averages, accumulation, loss scale."""

import numpy as np
import pytest
from step_profile import observe

from distopt import IndexedSlices, Variable
from distopt.constraints import NonNeg
from distopt.errors import InvalidArgumentError
from distopt.optimizers import SGD, Adam, LossScaleOptimizer
from distopt.optimizers.common.access import engine_of, family_of


def ones(*variables):
    return [(np.ones(v.shape, v.dtype), v) for v in variables]


# Weight decay


def test_weights_decay_before_the_update_by_the_current_rate():
    x = Variable([2.0])
    sgd = SGD(1.0, weight_decay=0.004)
    sgd.apply_gradients([([0.0], x)])
    np.testing.assert_allclose(x.numpy(), [1.992])
    sgd.learning_rate, sgd.weight_decay = 0.5, 0.25
    sgd.apply_gradients([([0.0], x)])
    np.testing.assert_allclose(x.numpy(), [1.992 * 0.875], rtol=1e-6)


def test_excluded_weights_and_those_without_gradient_do_not_decay():
    x, y, bias = Variable([1.0], name="x"), Variable([1.0], name="y"), Variable([1.0], name="dense/bias")
    table = Variable([[1.0], [1.0]], name="table")
    sgd = SGD(1.0, weight_decay=0.5)
    sgd.exclude_from_weight_decay(var_list=[y], var_names=["b.as"])
    rows = IndexedSlices([[0.0]], [1], (2, 1))
    sgd.apply_gradients([([0.0], x), ([0.0], y), ([0.0], bias), (rows, table)])
    assert [float(v[0]) for v in (x, y, bias)] == [0.5, 1.0, 1.0]
    np.testing.assert_array_equal(table.numpy(), [[0.5], [0.5]])
    with pytest.warns(UserWarning, match="do not exist"):
        sgd.apply_gradients([([0.0], x), (None, table)])
    np.testing.assert_array_equal(table.numpy(), [[0.5], [0.5]])


def test_what_is_excluded_must_be_variables_or_patterns():
    for options in ({"var_list": ["bias"]}, {"var_names": [3]}, {"var_names": ["("]}):
        with pytest.raises(ValueError, match="exclude_from_weight_decay"):
            SGD().exclude_from_weight_decay(**options)
    x, bias = Variable([1.0], name="x"), Variable([1.0], name="bias")
    sgd = SGD(1.0, weight_decay=0.5)
    sgd.exclude_from_weight_decay(var_list=x, var_names="bias")
    sgd.apply_gradients([([0.0], x), ([0.0], bias)])
    assert (float(x[0]), float(bias[0])) == (1.0, 1.0)


def decaying(**excluded):
    """Return the names of the variables that decay."""
    variables = [Variable([1.0], name=name) for name in ("x/gamma", "x/bb", "x/Bias", "x/w")]
    sgd = SGD(1.0, weight_decay=0.5)
    sgd.exclude_from_weight_decay(**excluded)
    sgd.apply_gradients([([0.0], variable) for variable in variables])
    return [variable.name for variable in variables if float(variable[0]) != 1.0]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["(gamma|beta)", r"(.)\1"], ["x/Bias", "x/w"]),
        (["gamma", "(?i)bias"], ["x/bb", "x/w"]),
        (["(?P<name>gamma)", "(?P<name>bb)"], ["x/Bias", "x/w"]),
        (["(?x) gamma # a comment", "w"], ["x/bb", "x/Bias"]),
    ],
)
def test_patterns_of_exclude_from_weight_decay_are_compiled_alone(patterns, left):
    assert decaying(var_names=patterns) == left


def test_a_pattern_that_excludes_no_variable_is_a_warning():
    with pytest.warns(UserWarning, match=r"the patterns \['bais'\] fit no variable.*such as 'x/gamma'"):
        assert decaying(var_names=["bais", "w"]) == ["x/gamma", "x/bb", "x/Bias"]


def test_limits_can_be_set_one_at_a_time():
    x, sgd = Variable([1.0]), SGD(1.0)
    sgd.clipnorm = 0.5
    sgd.apply_gradients(ones(x))
    assert (float(x[0]), sgd.clipnorm) == (0.5, 0.5)
    with pytest.raises(ValueError, match="one limit at a time"):
        sgd.clipvalue = 0.1
    for name in ("clipnorm", "weight_decay"):
        with pytest.raises(ValueError, match=f"set {name} on the inner optimizer"):
            setattr(LossScaleOptimizer(SGD()), name, 0.5)


@pytest.mark.parametrize("option", ["use_ema", "amsgrad", "master_weights"])
def test_flags_are_true_or_false(option):
    with pytest.raises(ValueError, match=f"{option}='no'.*True or False"):
        Adam(**{option: "no"})


def test_decay_can_not_be_switched_after_build():
    x = Variable([1.0])
    for sgd, value in ((SGD(), 0.1), (SGD(weight_decay=0.1), None)):
        sgd.build([x])
        with pytest.raises(ValueError, match="was built with"):
            sgd.weight_decay = value
        with pytest.raises(ValueError, match="is built already"):
            sgd.exclude_from_weight_decay([x])
    with pytest.raises(ValueError, match="0 or more"):
        SGD(weight_decay=-0.1)


# Averages


def test_averages_begin_with_the_first_weights_and_overwrite_them():
    x, frozen = Variable([3.0]), Variable([4.0])
    sgd = SGD(1.0, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3)
    sgd.build([x, frozen])
    seen = []
    for _ in range(3):
        sgd.apply_gradients(ones(x))
        seen.append((float(x[0]), float(sgd.variables[2][0]), float(sgd.variables[3][0])))
    np.testing.assert_allclose(seen, [(2, 2, 4), (1, 1.9, 4), (1.71, 1.71, 4)], rtol=1e-6)


def test_averages_are_taken_before_constraints_and_finalized():
    x = Variable([0.5], constraint=NonNeg())
    sgd = SGD(1.0, use_ema=True)
    sgd.apply_gradients(ones(x))
    assert (float(x[0]), float(sgd.variables[2][0])) == (0.0, -0.5)
    sgd.finalize_variable_values([x])
    assert float(x[0]) == -0.5


def test_arguments_of_averages_are_checked():
    with pytest.raises(ValueError, match="ema_momentum"):
        SGD(use_ema=True, ema_momentum=1.5)
    with pytest.raises(ValueError, match="1 or more"):
        SGD(use_ema=True, ema_overwrite_frequency=0)
    with pytest.raises(InvalidArgumentError, match="ema_overwrite_frequency=True"):
        SGD(use_ema=True, ema_overwrite_frequency=True)
    SGD(ema_momentum=1.5, ema_overwrite_frequency=0)


@pytest.mark.parametrize(("name", "value"), [("ema_momentum", 1.5), ("ema_overwrite_frequency", 0.5)])
def test_averages_are_checked_where_they_are_changed(name, value):
    sgd = SGD(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3)
    with pytest.raises(ValueError, match=f"{name}={value}"):
        setattr(sgd, name, value)
    assert (sgd.ema_momentum, sgd.ema_overwrite_frequency) == (0.9, 3)


def test_without_a_step_there_is_nothing_to_finalize():
    x = Variable([1.0])
    sgd = SGD(1.0, use_ema=True, gradient_accumulation_steps=2)
    sgd.finalize_variable_values([x])
    sgd.apply_gradients(ones(x))
    sgd.finalize_variable_values([x])
    assert float(x[0]) == 1.0
    sgd.apply_gradients(ones(x))
    with pytest.raises(ValueError, match="Unknown variable"):
        sgd.finalize_variable_values([Variable([1.0])])
    sgd.finalize_variable_values(x)
    assert float(x[0]) == 0.0


# Accumulation


def test_a_variable_that_the_last_micro_step_leaves_out_is_missed():
    x, y = Variable([1.0], name="x"), Variable([1.0], name="y")
    sgd = SGD(1.0, gradient_accumulation_steps=2)
    sgd.build([x, y])
    sgd.apply_gradients(ones(x))
    with pytest.raises(ValueError, match=r"lists no \['x'\]"):
        sgd.apply_gradients(ones(y))


def test_accumulation_averages_the_calls():
    x, y = Variable([1.0]), Variable([1.0])
    accumulating, plain = Adam(0.1, gradient_accumulation_steps=3), Adam(0.1)
    for k in range(6):
        returned = accumulating.apply_gradients([([float(k)], x)])
        assert (int(returned), accumulating.iterations) == (k + 1, (k + 1) // 3)
    for mean in (1.0, 4.0):
        plain.apply_gradients([([mean], y)])
    np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-6)
    assert not accumulating.variables[2].numpy().any()


def test_a_gradient_that_is_missing_at_the_end_is_not_lost():
    x, y = Variable([1.0]), Variable([1.0])
    sgd = SGD(1.0, gradient_accumulation_steps=2)
    sgd.apply_gradients(ones(x, y))
    sgd.apply_gradients([([1.0], x), (None, y)])
    assert (float(x[0]), float(y[0])) == (0.0, 0.5)


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_accumulation_of_zeros_then_none_is_a_gradient(form):
    def zeros(v):
        return IndexedSlices(np.zeros(1, v.dtype), [0], v.shape) if form == "sparse" else np.zeros(1, v.dtype)

    x, y = Variable([0.0]), Variable([0.0])
    sgd = SGD(0.1, momentum=0.9, gradient_accumulation_steps=2)
    for _ in range(2):
        sgd.apply_gradients(ones(x, y))
    sgd.apply_gradients([(zeros(x), x), *ones(y)])
    sgd.apply_gradients([(None, x), *ones(y)])
    np.testing.assert_allclose([x.numpy(), y.numpy()], [[-0.19], [-0.29]], rtol=1e-6)
    sgd.apply_gradients([(None, x), *ones(y)])
    with pytest.warns(UserWarning, match="do not exist"):
        sgd.apply_gradients([(None, x), *ones(y)])


def test_accumulation_of_zeros_that_the_last_micro_step_leaves_out_is_missed():
    x, y = Variable([1.0], name="x"), Variable([1.0], name="y")
    sgd = SGD(1.0, gradient_accumulation_steps=2)
    sgd.apply_gradients([([0.0], x), *ones(y)])
    with pytest.raises(ValueError, match=r"lists no \['x'\]"):
        sgd.apply_gradients(ones(y))


def test_accumulators_are_looked_at_once_a_step():
    variables = [Variable([1.0]) for _ in range(200)]
    sgd = SGD(1.0, gradient_accumulation_steps=2)
    sgd.build(variables)
    assert observe(family_of(sgd).state).calls < 10


def test_micro_steps_are_given_up_where_replicas_were_lost():
    x, sgd = Variable([1.0]), SGD(1.0, gradient_accumulation_steps=3)
    for _ in range(5):
        sgd.apply_gradients([([1.0], x)])
    engine_of(sgd).training.forget_micro_steps()
    assert (int(sgd.variables[0]), float(x[0])) == (3, 0.0)
    for k in range(3):
        sgd.apply_gradients([([float(k)], x)])
    assert (sgd.iterations, float(x[0])) == (2, -1.0)


def test_items_are_given_in_all_micro_steps_or_in_none():
    x, sgd = Variable([1.0]), SGD(1.0, gradient_accumulation_steps=2)
    sgd.apply_gradients(ones(x), items=3)
    with pytest.raises(ValueError, match="in all or in none"):
        sgd.apply_gradients(ones(x))
    sgd.apply_gradients(ones(x), items=1)
    assert float(x[0]) == 0.5


def test_without_aggregation_accumulation_and_scale_are_the_same():
    x, sgd = Variable([1.0]), SGD(1.0, gradient_accumulation_steps=2, loss_scale_factor=4.0)
    for _ in range(2):
        sgd.apply_gradients([([2.0], x)], experimental_aggregate_gradients=False)
    assert float(x[0]) == 0.5


def test_accumulation_needs_two_calls_or_more():
    for value in (1, -2, 2.5):
        with pytest.raises(ValueError, match="2 or more"):
            SGD(gradient_accumulation_steps=value)
    assert SGD(gradient_accumulation_steps=0).gradient_accumulation_steps is None


# Loss scale


def test_a_loss_scale_is_divided_out_before_clipping():
    x, sgd = Variable([1.0]), SGD(1.0, loss_scale_factor=8.0, clipnorm=0.5)
    assert sgd.scale_loss(2.0) == 16.0
    sgd.minimize(lambda: sgd.scale_loss(x * 0.25), [x])
    assert float(x[0]) == 0.75
    with pytest.raises(ValueError, match="above 0"):
        SGD(loss_scale_factor=0)


def test_dynamic_scales_grow_and_shrink_as_in_keras():
    x = Variable([1.0])
    optimizer = LossScaleOptimizer(SGD(), initial_scale=400.0, dynamic_growth_steps=2)
    for _ in range(4):
        optimizer.apply_gradients([([np.inf], x)])
    assert (float(optimizer.dynamic_scale), int(optimizer.iterations), float(x[0])) == (25.0, 0, 1.0)
    for _ in range(8):
        optimizer.apply_gradients([([0.0], x)])
    assert (float(optimizer.dynamic_scale), int(optimizer.iterations)) == (400.0, 8)
    names = [v.name for v in optimizer.variables]
    assert names == ["iteration", "learning_rate", "step_counter", "dynamic_scale", "iteration", "learning_rate"]
    assert optimizer.learning_rate is optimizer.inner_optimizer.learning_rate


def test_a_scale_stays_a_number():
    x = Variable([1.0])
    for start, gradient in ((2.0**127, 0.0), (2.0**-126, np.nan)):
        optimizer = LossScaleOptimizer(SGD(), initial_scale=start, dynamic_growth_steps=1)
        optimizer.apply_gradients([([gradient], x)])
        assert float(optimizer.dynamic_scale) == start
