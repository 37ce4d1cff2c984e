"""The legacy face: hyperparameters, slots, weights, overrides, constraints, what is left out."""

import logging

import numpy as np
import pytest

from distopt import GradientTape, IndexedSlices, Variable
from distopt.constraints import NonNeg
from distopt.optimizers import legacy
from distopt.optimizers.schedules import ExponentialDecay, LearningRateSchedule

CLASSES = [legacy.SGD, legacy.Adam, legacy.NonFusedAdam]


class Inverse(LearningRateSchedule):
    def __call__(self, step):
        return 0.5 / (1 + 0.5 * float(step))


def one(variable):
    return [(np.ones(variable.shape, variable.dtype), variable)]


def test_the_learning_rate_can_be_set_at_any_time():
    """Upstream's testAdaptiveLearningRate."""
    a, b = Variable([1.0, 2.0]), Variable([3.0, 4.0])
    sgd = legacy.SGD(1.0)
    loss = lambda: 5 * a + 3 * b  # noqa: E731
    sgd.minimize(loss, [a, b])
    np.testing.assert_array_equal(a.numpy(), [-4, -3])
    sgd.learning_rate = 0.5
    sgd.minimize(loss, [a, b])
    np.testing.assert_array_equal(a.numpy(), [-6.5, -5.5])
    sgd.learning_rate = Inverse()
    sgd.minimize(loss, [a, b])
    np.testing.assert_array_equal(a.numpy(), [-7.75, -6.75])
    sgd.lr = lambda: 1.0
    sgd.minimize(loss, [a, b])
    np.testing.assert_array_equal(a.numpy(), [-12.75, -11.75])
    sgd.lr = 2
    sgd.minimize(loss, [a, b])
    np.testing.assert_array_equal(a.numpy(), [-22.75, -21.75])


def test_hyperparameters_are_attributes():
    sgd = legacy.SGD(learning_rate=1.0, momentum=0.5)
    sgd.minimize(lambda: 3 * x, [x := Variable([1.0])])
    assert float(sgd.learning_rate) == float(sgd.lr) == 1.0
    assert float(sgd.momentum) == 0.5
    sgd.lr = 0.25
    assert float(sgd.learning_rate) == 0.25
    sgd.learning_rate.assign(0.125)
    assert float(sgd.lr) == 0.125
    sgd.lr *= 0.5
    sgd.momentum -= 0.25
    assert (float(sgd.learning_rate), float(sgd.momentum)) == (0.0625, 0.25)
    with pytest.raises(AttributeError, match="not_an_attribute"):
        _ = sgd.not_an_attribute


def test_a_variable_given_as_learning_rate_is_followed():
    rate, x = Variable(0.5), Variable([1.0])
    sgd = legacy.SGD(learning_rate=rate)
    sgd.apply_gradients(one(x))
    rate.assign(0.25)
    sgd.apply_gradients(one(x))
    assert float(x[0]) == 0.25


def test_callables_are_called_once_a_step():
    calls = []
    adam = legacy.Adam(lambda: calls.append(1) or 0.1, beta_1=lambda: 0.9)
    x, y = Variable([1.0]), Variable([1.0])
    adam.apply_gradients([*one(x), *one(y)])
    assert len(calls) == 1
    assert float(adam.beta_1) == pytest.approx(0.9)


def test_dir_knows_the_hyperparameters():
    names = set(dir(legacy.SGD(1.0, momentum=0.1)))
    assert {"learning_rate", "lr", "momentum", "decay", "nesterov", "minimize"} <= names


def test_decay_divides_the_learning_rate():
    x, sgd = Variable([0.0]), legacy.SGD(1.0, decay=0.5)
    steps = []
    for _ in range(3):
        before = float(x[0])
        sgd.apply_gradients(one(x))
        steps.append(before - float(x[0]))
    np.testing.assert_allclose(steps, [1, 1 / 1.5, 1 / 2], rtol=1e-6)
    sgd.decay = 100.0
    before = float(x[0])
    sgd.apply_gradients(one(x))
    np.testing.assert_allclose(before - float(x[0]), 1 / 2.5, rtol=1e-6)


def test_decay_acts_on_top_of_a_schedule():
    x, sgd = Variable([0.0]), legacy.SGD(ExponentialDecay(1.0, 1, 0.5), decay=1.0)
    for _ in range(2):
        sgd.apply_gradients(one(x))
    np.testing.assert_allclose(x.numpy(), [-(1 + 0.5 / 2)], rtol=1e-6)


def test_lr_wins_and_warns():
    with pytest.warns(UserWarning, match="lr is an old name"):
        adam = legacy.Adam(0.1, lr=1.0)
    assert float(adam.learning_rate) == 1.0


def test_iterations():
    sgd = legacy.SGD()
    assert int(sgd.iterations) == 0
    assert sgd.iterations.dtype == np.int64
    result = sgd.apply_gradients(one(Variable([1.0])))
    assert result is sgd.iterations
    assert int(result) == 1
    with pytest.raises(RuntimeError, match="Cannot set `iterations`"):
        sgd.iterations = Variable(np.int64(3))


def test_iterations_can_be_set_before_their_first_use():
    sgd, counter = legacy.SGD(decay=1.0), Variable(np.int64(7))
    sgd.iterations = counter
    sgd.apply_gradients(one(Variable([1.0])))
    assert sgd.iterations is counter
    assert int(counter) == 8
    with pytest.raises(ValueError, match="int64"):
        legacy.SGD().iterations = 3


def test_weights_in_the_order_of_their_making():
    """Upstream's testSlotsUniqueEager, and appending for later variables."""
    v1, v3, v4 = Variable([1.0], name="v1"), Variable([1.0], name="v3"), Variable([1.0], name="v4")
    adam = legacy.Adam()
    assert adam.weights == []
    adam.apply_gradients(one(v1))
    adam.apply_gradients([*one(v3), *one(v4)])
    assert [w.name for w in adam.weights] == ["Adam/iter", "v1/m", "v1/v", "v3/m", "v4/m", "v3/v", "v4/v"]
    assert adam.variables() is adam.weights
    assert len({id(w) for w in adam.weights}) == 7


def test_set_weights_makes_two_optimizers_alike():
    x, y = Variable([1.0, 2.0]), Variable([1.0, 2.0])
    first, second = legacy.Adam(1.0), legacy.Adam(1.0)
    first.minimize(lambda: 3 * x, [x])
    second.minimize(lambda: 2 * y, [y])
    y.assign(x)
    second.set_weights(first.get_weights())
    first.minimize(lambda: 3 * x, [x])
    second.minimize(lambda: 3 * y, [y])
    np.testing.assert_array_equal(x.numpy(), y.numpy())


def test_set_weights_refuses_other_lists_and_changes_nothing():
    adam = legacy.Adam()
    adam.apply_gradients(one(Variable([1.0, 2.0])))
    before = adam.get_weights()
    with pytest.raises(ValueError, match="but the optimizer was expecting 3 weights"):
        adam.set_weights(before[:2])
    with pytest.raises(ValueError, match="not compatible"):
        adam.set_weights([np.int64(5), before[1] + 1, np.zeros(3, np.float32)])
    for mine, old in zip(adam.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, old)


def test_set_weights_of_amsgrad_into_adam():
    x, y = Variable([1.0]), Variable([1.0])
    source, target = legacy.Adam(amsgrad=True), legacy.Adam()
    source.apply_gradients(one(x))
    target.apply_gradients(one(y))
    target.set_weights([np.int64(9), [2.0], [3.0], [4.0]])
    assert int(target.iterations) == 9
    assert float(target.get_slot(y, "v")[0]) == 3.0


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
def test_slots():
    x, adam = Variable(np.ones((2, 3), np.float16), name="x"), legacy.Adam(amsgrad=True)
    with pytest.raises(KeyError, match="first step"):
        adam.get_slot(x, "m")
    assert adam.get_slot_names() == []
    adam.apply_gradients(one(x))
    slot = adam.get_slot(x, "m")
    assert (slot.name, slot.shape, slot.dtype) == ("x/m", (2, 3), np.float16)
    assert adam.get_slot_names() == ["m", "v", "vhat"]
    assert adam.add_slot(x, "m") is slot
    with pytest.raises(KeyError, match="momentum"):
        adam.get_slot(x, "momentum")


def test_slots_of_other_shapes_and_values():
    x, sgd = Variable(np.ones((2, 3), np.float32), name="x"), legacy.SGD()
    assert sgd.add_slot(x, "counts", shape=[4]).numpy().tolist() == [0] * 4
    assert sgd.add_slot(x, "ones", initializer="ones").numpy().sum() == 6
    assert float(sgd.add_slot(x, "scalar", initializer=np.float32(2.5), shape=[])) == 2.5
    made = sgd.add_slot(x, "called", initializer=lambda shape, dtype: np.full(shape, 3, dtype))
    assert made.numpy().tolist() == [[3.0] * 3] * 2
    with pytest.raises(ValueError, match="Unknown initializer"):
        sgd.add_slot(x, "bad", initializer="glorot")
    assert [w.shape for w in sgd.weights] == [(4,), (2, 3), (), (2, 3)]


@pytest.mark.parametrize("cls", CLASSES)
def test_constraints_follow_each_update(cls):
    x, y = Variable([0.1, 0.2], constraint=NonNeg()), Variable([0.1, 0.2])
    optimizer = cls(1.0)
    optimizer.apply_gradients([*one(x), *one(y)])
    np.testing.assert_array_equal(x.numpy(), [0, 0])
    assert (y.numpy() < 0).all()


def test_a_constraint_and_a_sparse_gradient_are_refused_before_anything_moves():
    x, y = Variable([[1.0]], constraint=NonNeg(), name="x"), Variable([1.0])
    sgd = legacy.SGD(1.0)
    with pytest.raises(RuntimeError, match="Cannot use a constraint function on a sparse variable"):
        sgd.apply_gradients([*one(y), (IndexedSlices([[1.0]], [0], (1, 1)), x)])
    assert (int(sgd.iterations), float(y[0])) == (0, 1.0)
    sgd.apply_gradients([*one(y), *one(x)])


def test_an_empty_list_does_nothing():
    """Upstream's testEmptyVarList."""
    adam = legacy.Adam()
    assert int(adam.apply_gradients([])) == 0
    assert [w.name for w in adam.weights] == ["Adam/iter"]


def test_variables_without_gradients_are_left_out(caplog):
    x, y = Variable([1.0], name="x"), Variable([1.0], name="unused", constraint=lambda w: w * 0)
    adam = legacy.Adam()
    with caplog.at_level(logging.WARNING):
        adam.apply_gradients([*one(x), (None, y)])
    assert "Gradients do not exist for variables ['unused']" in caplog.text
    assert len(adam.weights) == 3
    assert float(y[0]) == 1.0
    adam.apply_gradients([*one(x), *one(y)])
    assert [w.name for w in adam.weights[3:]] == ["unused/m", "unused/v"]


def test_no_gradient_at_all_is_an_error():
    x, sgd = Variable([1.0], name="x"), legacy.SGD()
    with pytest.raises(ValueError, match=r"No gradients provided for any variable: \['x'\]"):
        sgd.apply_gradients([(None, x)])
    with pytest.raises(ValueError, match="No gradients provided"):
        sgd.minimize(lambda: np.float32(1.0) * Variable(2.0), [x])
    assert int(sgd.iterations) == 0


def test_the_same_variable_twice_is_updated_twice_in_one_step():
    x, sgd = Variable([0.0]), legacy.SGD(1.0, momentum=0.5)
    sgd.apply_gradients([*one(x), *one(x)])
    assert int(sgd.iterations) == 1
    assert float(x[0]) == -1 - 1.5
    assert len(sgd.weights) == 2


def test_minimize_takes_callables_tapes_and_output_gradients():
    a, b = Variable([1.0, 2.0]), Variable([3.0, 4.0])
    sgd = legacy.SGD(3.0)
    sgd.minimize(lambda: 5 * a + 3 * b, lambda: [a, b], grad_loss=np.array([42.0, -42.0], np.float32))
    np.testing.assert_array_equal(a.numpy(), [1 - 3 * 5 * 42, 2 + 3 * 5 * 42])
    with GradientTape() as tape:
        loss = 2.0 * b
    sgd.minimize(loss, [b], tape=tape)
    with pytest.raises(ValueError, match="`tape` is required"):
        sgd.minimize(loss, [b])
