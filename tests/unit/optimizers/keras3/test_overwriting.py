"""Variables that are overwritten by their gradients: no rule, no limit, no decay, no scale; the greatest counts."""

import copy
import pickle

import numpy as np
import pytest

from distopt import IndexedSlices, Strategy, Variable, get_strategy, replica_index, simulate
from distopt.errors import InvalidArgumentError
from distopt.optimizers import SGD, Adam, LossScaleOptimizer, MultiOptimizer, Optimizer, OptimizerMap, legacy


def scales(name="scale", value=(1.0, 2.0)):
    variable = Variable(np.float32(value), name=name)
    variable.overwrite_with_gradient = True
    return variable


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(0.5),
        lambda: SGD(0.5, momentum=0.9, weight_decay=0.5),
        lambda: Adam(0.5, global_clipnorm=1.0, use_ema=True, ema_overwrite_frequency=1),
        lambda: SGD(0.5, clipvalue=1.0, loss_scale_factor=8.0),
        lambda: LossScaleOptimizer(SGD(0.5, clipnorm=1.0)),
        lambda: MultiOptimizer(OptimizerMap(SGD(0.5, weight_decay=0.1))),
    ],
)
def test_the_gradient_becomes_the_value(make):
    scale, x = scales(), Variable([1.0], name="x")
    optimizer = make()
    optimizer.apply_gradients([([5.0, 6.0], scale), ([0.0], x)])
    assert scale.numpy().tolist() == [5.0, 6.0]
    optimizer.apply_gradients([([7.0, -8.0], scale)])
    assert scale.numpy().tolist() == [7.0, -8.0]


def test_the_others_are_limited_and_stepped_as_without_it():
    scale, x, y = scales(), Variable([0.0, 0.0]), Variable([0.0, 0.0])
    SGD(1.0, global_clipnorm=1.0).apply_gradients([([500.0, 6.0], scale), ([3.0, 4.0], x)])
    SGD(1.0, global_clipnorm=1.0).apply_gradients([([3.0, 4.0], y)])
    np.testing.assert_array_equal(x.numpy(), y.numpy())


def test_it_gets_no_slots():
    scale, x, adam = scales(), Variable([1.0], name="x"), Adam(name="adam", use_ema=True)
    adam.apply_gradients([([5.0, 6.0], scale), ([1.0], x)])
    assert [v.name for v in adam.variables[2:]] == ["adam/x_average", "adam/x_momentum", "adam/x_velocity"]
    adam.finalize_variable_values([scale, x])
    assert scale.numpy().tolist() == [5.0, 6.0]


def test_the_greatest_of_all_micro_steps_counts():
    scale, x = scales(), Variable([0.0])
    sgd = SGD(1.0, gradient_accumulation_steps=3)
    for number, pair in enumerate([[5.0, 1.0], [4.0, 9.0], [3.0, 2.0]] * 2):
        sgd.apply_gradients([([value + 10 * (number > 2) for value in pair], scale), ([3.0], x)])
        assert scale.numpy().tolist() == [[1.0, 2.0], [5.0, 9.0], [15.0, 19.0]][(number + 1) // 3]
    assert float(x[0]) == -6.0


def test_the_greatest_of_all_replicas_counts():
    def train():
        scale, x = scales(), Variable([0.0])
        mine = None if replica_index() == 2 else [5.0 - replica_index(), 6.0 + replica_index()]
        sgd = SGD(1.0)
        sgd.apply_gradients([(mine, scale), ([1.0], x)])
        sgd.apply_gradients([([1.0, replica_index()], scale), ([0.0], x)], experimental_aggregate_gradients=False)
        return float(x[0]), scale.numpy().tolist()

    def first():
        scale = scales()
        mine = None if replica_index() == 2 else [5.0 - replica_index(), 6.0 + replica_index()]
        SGD(1.0).apply_gradients([(mine, scale)])
        return scale.numpy().tolist()

    assert simulate(3, first) == [[5.0, 7.0]] * 3
    assert simulate(3, train) == [(-3.0, [1.0, float(r)]) for r in range(3)]


def test_rows_stand_for_the_whole():
    scale = scales(value=[[1.0], [2.0]])
    SGD().apply_gradients([(IndexedSlices([[5.0]], [1], (2, 1)), scale)])
    assert scale.numpy().tolist() == [[0.0], [5.0]]


def test_a_subclass_can_say_which():
    class Mine(Optimizer):
        def _overwrite_variable_with_gradient(self, variable):
            return variable.name == "scale"

        def update_step(self, gradient, variable, learning_rate):
            self.assign_sub(variable, gradient)

    scale, x = Variable([1.0], name="scale"), Variable([1.0], name="x")
    Mine().apply_gradients([([5.0], scale), ([5.0], x)])
    assert (float(scale[0]), float(x[0])) == (5.0, -4.0)


def test_where_it_can_not_be_it_is_refused():
    sgd, scale = SGD(), scales()
    sgd.begin_step([scale])
    sgd.push(scale, [5.0, 6.0])
    assert int(sgd.end_step()) == 1, "alone, nothing is summed meanwhile"
    assert scale.numpy().tolist() == [5.0, 6.0]

    def step():
        with Strategy(get_strategy().communicator, update="shared").scope():
            SGD().apply_gradients([([5.0, 6.0], scales())])

    def stream():
        SGD().begin_step([Variable([1.0]), scales()])

    with pytest.raises(InvalidArgumentError, match=r"'scale' is overwritten by its gradient.*use apply_gradients"):
        simulate(2, stream)  # whether or not a core is free to sum: replicas went apart where none was
    with pytest.raises(InvalidArgumentError, match="SGD, whose overwrite_with_gradient sees the whole sum, needs"):
        simulate(2, step)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies_are_overwritten_too(how):
    assert how(scales()).overwrite_with_gradient
    assert not how(Variable(1.0)).overwrite_with_gradient


def test_other_attributes_and_the_legacy_family_know_nothing_of_it():
    scale = scales()
    scale.note = "the user's own"
    legacy.SGD(1.0).apply_gradients([(np.float32([5.0, 6.0]), scale)])
    assert scale.numpy().tolist() == [-4.0, -4.0]
    scale.overwrite_with_gradient = False
    SGD(1.0).apply_gradients([([1.0, 1.0], scale)])
    assert scale.numpy().tolist() == [-5.0, -5.0]
