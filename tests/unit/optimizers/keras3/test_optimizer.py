"""The Keras 3 face: build, update_step, variables, learning rate, constraints, names."""

import numpy as np
import pytest

from distopt import IndexedSlices, Variable, optimizers
from distopt.constraints import NonNeg
from distopt.optimizers import SGD, Adam, Optimizer
from distopt.optimizers.schedules import ExponentialDecay


def ones(*variables):
    return [(np.ones(v.shape, v.dtype), v) for v in variables]


class Signs(Optimizer):
    """The smallest optimizer of one's own."""

    def update_step(self, gradient, variable, learning_rate):
        self.assign_sub(variable, learning_rate * np.sign(gradient))


def test_iterations_count_calls():
    x, sgd = Variable([1.0]), SGD()
    assert (int(sgd.iterations), sgd.iterations.dtype) == (0, np.int64)
    assert sgd.apply_gradients(ones(x)) is sgd.iterations
    assert int(sgd.apply([[1.0]], [x])) == 2


def test_variables_are_in_the_order_of_keras():
    a, b = Variable([1.0], name="a"), Variable([1.0], name="b")
    adam = Adam(amsgrad=True, name="adam")
    assert [v.name for v in adam.variables] == ["iteration", "learning_rate"]
    adam.build([a, b])
    slots = [v.name.removeprefix("adam/") for v in adam.variables[2:]]
    assert slots == ["a_momentum", "a_velocity", "b_momentum", "b_velocity", "a_velocity_hat", "b_velocity_hat"]
    assert adam.variables[2].dtype == np.float32


def test_build_happens_once_and_in_the_first_step():
    x, adam = Variable([1.0]), Adam()
    assert not adam.built
    adam.apply_gradients(ones(x))
    assert adam.built
    held = adam.variables
    adam.build([x, Variable([2.0])])
    assert [id(v) for v in adam.variables] == [id(v) for v in held]


def test_unknown_variables_are_refused():
    x, sgd = Variable([1.0], name="x"), SGD()
    sgd.apply_gradients(ones(x))
    with pytest.raises(ValueError, match=r"Unknown variable: <Variable 'other'.*built for \['x'\]"):
        sgd.apply_gradients(ones(Variable([1.0], name="other")))
    assert int(sgd.iterations) == 1


def test_a_part_of_the_built_variables_can_be_stepped():
    x, y, adam = Variable([1.0]), Variable([1.0]), Adam(0.5)
    adam.build([x, y])
    adam.apply_gradients(ones(y))
    assert float(x[0]) == 1.0
    assert float(y[0]) == pytest.approx(0.5, abs=1e-4)


def test_apply_takes_two_lists():
    x, sgd = Variable([1.0]), SGD(1.0)
    with pytest.raises(ValueError, match="not built"):
        sgd.apply([[1.0]])
    sgd.build([x])
    sgd.apply([[1.0]])
    assert float(x[0]) == 0.0
    with pytest.raises(ValueError, match="2 gradients for 1 variables"):
        sgd.apply([[1.0], [1.0]])


def test_empty_lists():
    sgd = SGD()
    assert int(sgd.apply([])) == 0
    with pytest.raises(ValueError, match="empty list"):
        sgd.apply_gradients([])
    assert not sgd.built
    assert int(sgd.iterations) == 0


def test_none_gradients_are_filtered_with_a_warning():
    x, y, adam = Variable([1.0], name="x"), Variable([1.0], name="y", constraint=lambda w: w * 0), Adam(0.5)
    with pytest.warns(UserWarning, match=r"Gradients do not exist for variables \['y'\]"):
        adam.apply_gradients([*ones(x), (None, y)])
    assert float(y[0]) == 1.0
    assert len(adam.variables) == 6, "build makes slots for every variable"
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        adam.apply_gradients([(None, x), (None, y)])
    assert int(adam.iterations) == 1


@pytest.mark.parametrize("cls", [SGD, Adam])
def test_constraints_are_applied_to_dense_and_sparse_updates(cls):
    x, table = Variable([0.1], constraint=NonNeg()), Variable([[0.1], [0.2]], constraint=NonNeg())
    cls(1.0).apply_gradients([*ones(x), (IndexedSlices([[5.0]], [1], (2, 1)), table)])
    assert float(x[0]) == 0.0
    np.testing.assert_allclose(table.numpy(), [[0.1], [0.0]])


def test_the_learning_rate_as_a_number():
    x, sgd = Variable([0.0]), SGD(1.0)
    sgd.learning_rate = 0.5
    sgd.apply_gradients(ones(x))
    sgd.learning_rate.assign(0.25)
    sgd.apply_gradients(ones(x))
    assert float(x[0]) == -0.75
    rate = sgd.learning_rate
    sgd.learning_rate *= 3
    sgd.learning_rate += 0.25
    sgd.learning_rate /= 2
    sgd.learning_rate -= 0.125
    assert float(sgd.learning_rate) == 0.375
    assert sgd.learning_rate is rate
    assert sgd.learning_rate.dtype == np.float32


def test_lr_is_an_ordinary_attribute():
    sgd = SGD(1.0)
    assert not hasattr(sgd, "lr")
    with pytest.raises(AttributeError, match="it is called learning_rate"):
        _ = sgd.lr
    sgd.lr = 0.5
    assert (sgd.lr, float(sgd.learning_rate)) == (0.5, 1.0)
    del sgd.lr
    assert not hasattr(sgd, "lr")


def test_the_learning_rate_as_a_schedule():
    x, sgd = Variable([0.0]), SGD(ExponentialDecay(1.0, 1, 0.5))
    for _ in range(3):
        sgd.apply_gradients(ones(x))
    assert float(x[0]) == -1.75, "the first step sees step 0"
    assert float(sgd.learning_rate) == 0.125
    with pytest.raises(TypeError, match="not settable"):
        sgd.learning_rate = 0.1


def test_the_learning_rate_as_a_function():
    x, calls = Variable([0.0]), []
    sgd = SGD(lambda: calls.append(1) or 0.5)
    sgd.apply_gradients([*ones(x), *ones(x)])
    assert (float(x[0]), len(calls)) == (-1.0, 1)


def test_a_schedule_over_a_number_takes_the_variable_away():
    sgd = SGD(1.0, momentum=0.5)
    sgd.build([Variable([0.0])])
    assert len(sgd.variables) == 3
    sgd.learning_rate = ExponentialDecay(1.0, 1, 0.5)
    assert [v.name.split("_")[-1] for v in sgd.variables] == ["iteration", "momentum"]


def test_set_weights_changes_all_or_nothing():
    x, adam = Variable([1.0, 2.0]), Adam()
    with pytest.raises(ValueError, match="call build"):
        adam.set_weights([np.int64(1), 0.5, [0.0, 0.0], [0.0, 0.0]])
    adam.build([x])
    adam.set_weights([np.int64(4), 0.5, [1.0, 2.0], [3.0, 4.0]])
    assert (int(adam.iterations), float(adam.learning_rate)) == (4, 0.5)
    with pytest.raises(ValueError, match="velocity"):
        adam.set_weights([np.int64(9), 0.1, [5.0, 5.0], [1.0]])
    np.testing.assert_array_equal(adam.variables[2].numpy(), [1, 2])
    assert int(adam.iterations) == 4


def test_names_are_numbered_snake_case():
    class RMSprop(Signs):
        pass

    class AdamW2(Signs):
        pass

    assert RMSprop().name.startswith("rm_sprop")
    assert AdamW2().name == "adam_w2"
    assert AdamW2().name == "adam_w2_1"
    assert AdamW2(name="mine").name == "mine"


def test_an_optimizer_of_ones_own():
    x, table = Variable([1.0, -1.0]), Variable([[1.0], [1.0]])
    Signs(learning_rate=0.5).apply_gradients([([3.0, -2.0], x), ([[0.0], [9.0]], table)])
    np.testing.assert_array_equal(x.numpy(), [0.5, -0.5])
    np.testing.assert_array_equal(table.numpy(), [[1.0], [0.5]])


def test_variables_of_ones_own():
    class Counting(Signs):
        def build(self, variables):
            if self.built:
                return
            super().build(variables)
            self.count = self.add_variable([], dtype="int64", name="count")
            first = self.add_variable_from_reference(variables[0], "m", initializer="ones")
            second = self.add_variable_from_reference(variables[0], "m", initializer=lambda s, d: np.full(s, 2, d))
            self.pair = first, second

    x, optimizer = Variable(np.ones((2, 2), np.float64)), Counting()
    optimizer.build([x])
    assert (optimizer.count.shape, optimizer.count.dtype) == ((), np.int64)
    assert [float(m[1, 1]) for m in optimizer.pair] == [1.0, 2.0]
    assert all(m.dtype == np.float64 for m in optimizer.pair)
    assert optimizer._get_variable_index(x) == 0
    assert len(optimizer.variables) == 5
    with pytest.raises(ValueError, match="Unknown initializer"):
        optimizer.add_variable([2], initializer="random")


def test_the_same_variable_twice_shares_its_slots():
    x, sgd = Variable([0.0]), SGD(1.0, momentum=0.5)
    sgd.apply_gradients([*ones(x), *ones(x)])
    assert (float(x[0]), int(sgd.iterations), len(sgd.variables)) == (-2.5, 1, 3)


def test_a_class_without_update_step_is_refused_before_the_step():
    class Nothing(Optimizer):
        pass

    x, nothing = Variable([1.0]), Nothing()
    for _ in range(2):
        with pytest.raises(NotImplementedError, match="Nothing must override update_step"):
            nothing.apply_gradients(ones(x))


def test_forgetting_super_init_is_explained():
    class Forgetful(Optimizer):
        def __init__(self):
            self.momentum = 0.9

    with pytest.raises(RuntimeError, match=r"Forgetful.__init__ did not call super\(\).__init__"):
        Forgetful().apply_gradients(ones(Variable([1.0])))


def test_minimize():
    x = Variable([2.0])
    assert int(optimizers.SGD(0.25).minimize(lambda: x * x, [x])) == 1
    assert float(x[0]) == 1.0
