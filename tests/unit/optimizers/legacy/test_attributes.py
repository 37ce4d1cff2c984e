"""Attributes, hyperparameters and names of the legacy family that code written for upstream sets and reads."""

import numpy as np
import pytest
from unit.optimizers.legacy_wrappers import call

from distopt import Variable, replica_index, simulate
from distopt.errors import CollectiveMismatchError
from distopt.optimizers import legacy


def one(variable):
    return [(np.ones(variable.shape, variable.dtype), variable)]


@pytest.mark.parametrize("make", [legacy.SGD, legacy.RMSprop])
def test_a_momentum_that_upstream_ignores_is_an_error(make):
    optimizer = make(0.1)
    with pytest.raises(ValueError, match="made without momentum, which would stay without effect"):
        optimizer.momentum = 0.9


def test_a_switch_is_a_hyperparameter():
    sgd = legacy.SGD(0.5)
    call(sgd, "_set_hyper", "flag", True)
    assert float(sgd.flag) == 1.0
    assert vars(sgd)["_hyper"]["flag"].name == "SGD/flag"
    sgd.flag = False
    assert bool(sgd.flag) is False
    with pytest.raises(ValueError, match="learning_rate"):
        sgd.learning_rate = True


def test_iterations_of_somebody_elses():
    class Counted(legacy.SGD):
        def __init__(self, counter):
            super().__init__(1.0, decay=1.0)
            self._iterations = counter

    counter, x = Variable(np.int64(3)), Variable([0.0])
    optimizer = Counted(counter)
    assert int(optimizer.apply_gradients(one(x))) == 4
    assert (int(counter), float(x[0]), optimizer.weights) == (4, -0.25, [])
    with pytest.raises(ValueError, match="int64"):
        Counted(3)


def test_an_own_property_for_iterations_is_what_counts():
    class Counted(legacy.SGD):
        counter = None

        @property
        def iterations(self):
            if self.counter is None:
                self.counter = Variable(np.int64(5))
            return self.counter

    x, optimizer = Variable([0.0]), Counted(1.0, decay=1.0)
    optimizer.apply_gradients(one(x))
    assert int(optimizer.counter) == 6
    assert float(x[0]) == pytest.approx(-1 / 6)


def test_names_without_a_name_are_the_classes():
    class MyRule(legacy.SGD):
        pass

    assert MyRule(name=None).name.startswith("my_rule")
    with pytest.raises(ValueError, match="expected a str"):
        legacy.SGD(name=3)


def test_weights_of_ones_own():
    class Kept(legacy.SGD):
        def _create_slots(self, var_list):
            if not any("kept" in weight.name for weight in self._weights):
                self._weights.append(self.add_weight("kept", [2], initializer=np.ones, trainable=False))

        def _resource_apply_dense(self, grad, var):
            self._weights[1].assign(self._weights[1] * 2)

    x, optimizer = Variable([0.0]), Kept(1.0)
    for _ in range(2):
        optimizer.apply_gradients(one(x))
    count, kept = optimizer.get_weights()
    assert (int(count), kept.tolist()) == (2, [4.0, 4.0])
    optimizer.set_weights([7, [1.0, 2.0]])
    assert optimizer.weights[1].numpy().tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="Unknown initializer"):
        optimizer.add_weight("more", [], initializer="glorot")


def test_get_gradients_takes_a_function():
    x, y, sgd = Variable([3.0]), Variable([1.0]), legacy.SGD(0.5)
    assert [float(g[0]) for g in sgd.get_gradients(lambda: x * x, [x])] == [6.0]
    assert [int(n) for n in sgd.get_updates(lambda: x * x, [x])] == [1]
    assert float(x[0]) == 0.0
    with pytest.raises(ValueError, match="has `None` for gradient"):
        sgd.get_gradients(lambda: x * x, [y])
    with pytest.raises(ValueError, match="pass the loss as a function"):
        sgd.get_gradients(x * x, [x])


def test_rows_are_put_in_place():
    class Putting(legacy.SGD):
        def put(self, x, rows, values):
            return self._resource_scatter_update(x, rows, values)

    table = Variable([[1.0], [2.0], [3.0]])
    assert Putting().put(table, [2, 0], [[7.0], [5.0]]).numpy().ravel().tolist() == [5.0, 2.0, 7.0]


@pytest.mark.parametrize("function", ["get", "deserialize"])
def test_the_argument_of_tf_keras_for_the_family(function):
    call = getattr(legacy, function)
    identifier = {"class_name": "adam", "config": {}}
    assert isinstance(call(identifier, use_legacy_optimizer=True), legacy.Adam)
    with pytest.raises(ValueError, match=rf"call distopt\.optimizers\.{function}"):
        call(identifier, use_legacy_optimizer=False)


def test_dtypes_that_may_be_trained_are_the_optimizers_to_say():
    class Wide(legacy.SGD):
        def _valid_dtypes(self):
            return {np.dtype(np.float64)}

    x, y = Variable([1.0], dtype="float64"), Variable([1.0])
    Wide(0.5).minimize(lambda: x * 1.0, [x])
    assert float(x[0]) == 0.5
    with pytest.raises(ValueError, match="Invalid type float32"):
        Wide(0.5).minimize(lambda: y * 1.0, [y])


def test_switches_and_counts_are_in_a_config_as_they_were_given():
    class Mine(legacy.SGD):
        def __init__(self, averages=True, period=6, **kwargs):
            super().__init__(**kwargs)
            self._set_hyper("averages", averages)
            self._set_hyper("period", period)

        def get_config(self):
            own = {name: self._serialize_hyperparameter(name) for name in ("averages", "period")}
            return super().get_config() | own

    config = Mine(averages=False).get_config()
    assert (config["averages"], config["period"]) == (False, 6)
    assert type(config["period"]) is int
    assert Mine.from_config(config).get_config() == config


def test_replicas_agree_on_what_a_method_of_the_users_has_computed():
    class Mine(legacy.SGD):
        def _prepare_local(self, var_device, var_dtype, apply_state):
            super()._prepare_local(var_device, var_dtype, apply_state)
            apply_state[var_device, var_dtype].update(own=float(replica_index()), masked=np.nan)

    def step():
        with pytest.raises(CollectiveMismatchError, match="own"):
            Mine(1.0).apply_gradients(one(Variable([1.0])))

    simulate(2, step)
