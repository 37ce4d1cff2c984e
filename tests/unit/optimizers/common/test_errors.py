"""Errors name the thing and the cure; before the commit point nothing is changed."""

import numpy as np
import pytest

import distopt
from distopt import IndexedSlices, Variable, optimizers
from distopt.errors import InvalidArgumentError, UnknownArgumentError
from distopt.optimizers import legacy
from distopt.optimizers.schedules import LearningRateSchedule


class Prepared:
    """An optimizer that has made one step over x and y, and what it held then."""

    def __init__(self, cls, **options):
        self.x, self.y = Variable([1.0, 2.0], name="x"), Variable([[3.0]], name="y")
        self.optimizer = cls(**options)
        self.optimizer.apply_gradients([([1.0, 1.0], self.x), ([[1.0]], self.y)])
        self.held = self.state()

    def state(self):
        own = self.optimizer.weights if isinstance(self.optimizer, legacy.Optimizer) else self.optimizer.variables
        return [v.numpy() for v in (self.x, self.y, *own)]

    def assert_unchanged(self):
        for mine, held in zip(self.state(), self.held, strict=True):
            np.testing.assert_array_equal(mine, held)


GOOD = [1.0, 1.0]


BAD_GRADIENTS = {
    "another shape": ([1.0], r"gradient of 'x' has shape \(1,\), and the variable \(2,\)"),
    "broadcastable": (np.float32(1.0), r"nothing is broadcast"),
    "text": ("down", "of dtype <U4: expected an array of numbers"),
    "objects": (np.array([1.0, None]), "of dtype object"),
    "dates": (np.array(["2024", "2025"], "M8[Y]"), "expected an array of numbers"),
    "complex": (np.array([1j, 2], np.complex64), "has dtype complex64"),
    "a ragged list": ([[1.0], [1.0, 2.0]], "which np.asarray does not take"),
    "slices of another shape": (IndexedSlices([[1.0]], [0], (2, 1)), r"has shape \(2, 1\)"),
    "an index too many": (IndexedSlices([1.0], [2]), "index 2"),
}


@pytest.mark.parametrize("bad", list(BAD_GRADIENTS))
def test_bad_gradients_change_nothing(adam, bad):
    prepared = Prepared(adam)
    gradient, message = BAD_GRADIENTS[bad]
    with pytest.raises(InvalidArgumentError, match=message):
        prepared.optimizer.apply_gradients([([[1.0]], prepared.y), (gradient, prepared.x)])
    prepared.assert_unchanged()
    prepared.optimizer.apply_gradients([(GOOD, prepared.x), ([[1.0]], prepared.y)])
    assert int(prepared.optimizer.iterations) == 2


def test_bad_lists_change_nothing(adam):
    prepared = Prepared(adam)
    x = prepared.x
    for bad in (5, [x], [(GOOD, x, 1)], None):
        with pytest.raises(InvalidArgumentError, match=r"expected \(gradient, [vV]ariable\) pairs"):
            prepared.optimizer.apply_gradients(bad)
    with pytest.raises(InvalidArgumentError, match="gradients come first"):
        prepared.optimizer.apply_gradients([(x, GOOD)])
    prepared.assert_unchanged()


def test_variables_that_can_not_be_trained(adam):
    for dtype in ("int64", "bool", "complex64"):
        x = Variable(np.zeros(2, dtype), name="counts")
        with pytest.raises(InvalidArgumentError, match=f"Invalid type {dtype} of variable 'counts'"):
            adam().apply_gradients([(np.zeros(2, dtype), x)])


def test_bad_items(adam):
    prepared = Prepared(adam)
    pairs = [(GOOD, prepared.x), ([[1.0]], prepared.y)]
    for bad in (-1, float("nan"), "all", "3", [2]):
        with pytest.raises(InvalidArgumentError, match="items="):
            prepared.optimizer.apply_gradients(pairs, items=bad)
    with pytest.raises(InvalidArgumentError, match="no aggregate to divide"):
        prepared.optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False, items=2)
    prepared.assert_unchanged()


def test_an_averaged_loss_counts_for_one_step_only(adam):
    prepared = Prepared(adam)
    pairs = [(GOOD, prepared.x), ([[1.0]], prepared.y)]

    def averaged_loss():
        with distopt.GradientTape() as tape:
            tape.watch(prepared.x)
            distopt.losses.MeanSquaredError()(np.ones((1, 2)), prepared.x * np.ones((1, 2)))

    averaged_loss()
    with pytest.raises(
        InvalidArgumentError, match=r"only a metric .*outside of the tape, or from distopt.stop_gradient"
    ):
        prepared.optimizer.apply_gradients(pairs, items=2)
    for options in ({}, {"experimental_aggregate_gradients": False}):
        averaged_loss()
        prepared.optimizer.apply_gradients(pairs, **options)
        prepared.optimizer.apply_gradients(pairs, items=2)
    assert int(prepared.optimizer.iterations) == 5


def test_items_divide_the_gradients():
    for cls in (optimizers.SGD, legacy.SGD):
        x, table = Variable([0.0]), Variable([[0.0], [0.0]])
        cls(1.0).apply_gradients([([6.0], x), (IndexedSlices([[9.0]], [1], (2, 1)), table)], items=3)
        assert (float(x[0]), float(table[1, 0])) == (-2.0, -3.0)


@pytest.mark.parametrize("rate", [float("nan"), "fast", [0.1, 0.2], 1j, None])
def test_bad_learning_rates(adam, rate):
    with pytest.raises(InvalidArgumentError, match="learning_rate"):
        adam(learning_rate=rate)
    prepared = Prepared(adam, learning_rate=lambda: 0.1)
    prepared.optimizer.learning_rate = lambda: rate
    with pytest.raises(InvalidArgumentError, match=r"learning_rate.*expected a finite real number"):
        prepared.optimizer.apply_gradients([(GOOD, prepared.x), ([[1.0]], prepared.y)])
    prepared.assert_unchanged()


def test_the_message_about_a_schedule_names_optimizer_step_and_value(adam):
    class Bad(LearningRateSchedule):
        def __call__(self, step):
            return None if int(step) else 0.1

    prepared = Prepared(adam, learning_rate=Bad(), name="mine")
    with pytest.raises(
        InvalidArgumentError, match=r"^optimizer 'mine', step 1: the schedule .* learning_rate gave None: "
    ):
        prepared.optimizer.apply_gradients([(GOOD, prepared.x), ([[1.0]], prepared.y)])
    prepared.assert_unchanged()


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused_as_learning_rates(adam, rate):
    with pytest.raises(InvalidArgumentError, match=rf"^Adam\(learning_rate={rate}\)"):
        adam(rate)
    prepared = Prepared(adam)
    with pytest.raises(InvalidArgumentError, match=rf"^Adam\(learning_rate={rate}\)"):
        prepared.optimizer.learning_rate = rate
    prepared.optimizer.learning_rate.assign(rate)
    with pytest.raises(InvalidArgumentError, match=rf"learning_rate.*{rate}") as caught:
        prepared.optimizer.apply_gradients([(GOOD, prepared.x), ([[1.0]], prepared.y)])
    assert prepared.optimizer.name in str(caught.value)
    assert int(prepared.optimizer.iterations) == 1


def test_hyperparameters_out_of_range(adam):
    for bad in (-1, float("inf"), "small"):
        with pytest.raises(InvalidArgumentError, match=r"Adam\(epsilon="):
            adam(epsilon=bad)
    for bad in (-1, 1.5):
        with pytest.raises(InvalidArgumentError, match=r"Adam\(beta_1=.*from 0 to "):
            adam(beta_1=bad)
    with pytest.raises(InvalidArgumentError, match=r"SGD\(momentum=2\): expected a number from 0 to 1"):
        legacy.SGD(momentum=0.5).momentum = 2
    with pytest.raises(InvalidArgumentError, match="clipvalue"):
        adam(clipvalue="1")


def test_an_optimizer_of_another_replica_is_refused():
    for optimizer in (optimizers.SGD(name="mine"), legacy.SGD(name="mine")):
        _ = optimizer.iterations

        def train(optimizer=optimizer):
            optimizer.apply_gradients([([1.0], Variable([1.0]))])

        with pytest.raises(
            distopt.errors.ForeignVariableError, match=r"optimizer 'mine' was made by .* Make it inside"
        ):
            distopt.simulate(2, train)


def test_a_failing_schedule_changes_nothing(adam):
    class Failing(LearningRateSchedule):
        def __call__(self, step):
            if step >= 1:
                raise KeyError("no such step")
            return 0.1

    prepared = Prepared(adam, learning_rate=Failing())
    for _ in range(2):
        with pytest.raises(KeyError, match="no such step"):
            prepared.optimizer.apply_gradients([(GOOD, prepared.x), ([[1.0]], prepared.y)])
    prepared.assert_unchanged()


def test_unknown_arguments_get_the_nearest_match():
    with pytest.raises(UnknownArgumentError, match=r"Unexpected keyword argument.*'clipnrm' \(did you mean 'clipnorm'"):
        legacy.SGD(clipnrm=1.0)
    with pytest.raises(ValueError, match=r"not recognized: 'learning_rat' \(did you mean 'learning_rate'"):
        optimizers.SGD(learning_rat=1.0)
    with pytest.raises(ValueError, match=r"not recognized: 'lr' \(did you mean 'learning_rate'"):
        optimizers.Adam(lr=1.0)


def test_arguments_of_the_constructors():
    for argument in ("lr", "decay", "clipvalue"):
        with pytest.raises(InvalidArgumentError, match=f"Expected {argument} >= 0, received: -1"):
            legacy.SGD(**{argument: -1.0})
    with pytest.raises(InvalidArgumentError, match="name"):
        legacy.Optimizer(5)
    with pytest.raises(InvalidArgumentError, match=r"'weight_dekay' \(did you mean 'weight_decay'\?\)"):
        optimizers.Adam(weight_dekay=0.1)
    with pytest.warns(UserWarning, match="decay"):
        optimizers.Adam(decay=0.1)
    with pytest.raises(InvalidArgumentError, match="nesterov"):
        optimizers.SGD(nesterov="yes")


def test_every_replica_hears_of_a_bad_gradient_and_all_go_on_together(adam):
    def train():
        x, optimizer = Variable([1.0, 2.0], name="x"), adam()
        errors = []
        for step in range(3):
            wrong = step == 1 and distopt.replica_index() == 1
            try:
                optimizer.apply_gradients([([1.0] if wrong else GOOD, x)])
            except distopt.errors.DistoptError as error:
                errors.append(type(error).__name__)
        return errors, int(optimizer.iterations), x.numpy().tolist()

    first, second = distopt.simulate(2, train)
    assert (first[0], second[0]) == (["ReplicaFailedError"], ["InvalidArgumentError"])
    assert first[1:] == second[1:]
    assert first[1] == 2


NO_VARIABLES = {
    "text": ("abc", "received 'a' as a variable"),
    "numbers": ([1, 2], "received 1 as a variable"),
    "a number": (5, "gradient_buffers received 5: expected a list of distopt.Variable"),
}


@pytest.mark.parametrize("bad", NO_VARIABLES)
@pytest.mark.parametrize("is_new", [True, False])
def test_gradient_buffers_are_of_variables(adam, bad, is_new):
    optimizer = adam() if is_new else Prepared(adam).optimizer
    variables, says = NO_VARIABLES[bad]
    with pytest.raises(InvalidArgumentError, match=says):
        optimizer.gradient_buffers(variables)


def test_gradient_buffers_take_an_iterator(adam):
    (buffer,) = adam().gradient_buffers(iter([Variable([1.0, 2.0])]))
    assert buffer.shape == (2,)


@pytest.mark.parametrize("bad", ["abc", [3], 5])
def test_minimize_takes_variables(adam, bad):
    with pytest.raises(InvalidArgumentError, match=r"var_list holds .* expected a list of distopt.Variable"):
        adam().minimize(lambda: 1.0, bad)


@pytest.mark.parametrize("door", ["get_slot", "add_slot"])
def test_slots_are_of_variables(door):
    with pytest.raises(InvalidArgumentError, match="received 'w' as a variable"):
        getattr(legacy.Adam(), door)("w", "m")
