"""Variables that an optimizer of one's own makes, or has in its attributes, are its state."""

import copy
import pickle

import numpy as np
import pytest

from distopt import IndexedSlices, Variable, simulate
from distopt.checkpoint import Checkpointer
from distopt.errors import InvalidArgumentError
from distopt.optimizers import SGD, Adam, Optimizer
from distopt.optimizers.common.access import family_of


class Halving(Optimizer):
    """Steps by a factor that halves; the factor is an attribute, or in a list or dict that is one."""

    kind = "attribute"

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        u = Variable(1.0, name="u")
        if self.kind == "attribute":
            self.u = u
        else:
            self.held = {"list": [1, [u]], "dict": {"u": u, 3: None}, "tuple": (u,), "set": {u}}[self.kind]
        self.found = (lambda: self.u) if self.kind == "attribute" else (lambda: self.variables[-1])

    def update_step(self, gradient, variable, learning_rate):
        u = self.found()
        u.assign(u / 2)
        self.assign_sub(variable, u * gradient)


KINDS = ("attribute", "list", "dict", "tuple", "set")


@pytest.mark.parametrize("kind", KINDS)
def test_a_variable_in_an_attribute_is_saved_and_goes_on(kind):
    def made():
        optimizer = type("Mine", (Halving,), {"kind": kind})(1.0)
        x = Variable(0.0, name="x")
        optimizer.build([x])
        return optimizer, x

    first, x = made()
    for _ in range(2):
        first.apply_gradients([(1.0, x)])
    assert [v.name for v in first.variables] == ["iteration", "learning_rate", "u"]
    second, y = made()
    second.set_weights(first.get_weights())
    y.assign(x)
    for _ in range(2):
        second.apply_gradients([(1.0, y)])
    assert float(y) == -0.9375


def test_the_order_is_that_in_which_they_were_put_in():
    class Mixed(SGD):
        def build(self, variables):
            super().build(variables)
            self.made, self.slots = [], []
            for number, variable in enumerate(variables):
                self.made.append(Variable(1.0, name=f"made {number}"))
                self.slots.append(self.add_variable_from_reference(variable, "slot"))
            self.made[:] = self.made[1:] + self.made[:1]

    optimizer = Mixed(name="mixed")
    optimizer.build([Variable(1.0, name="a"), Variable(1.0, name="b")])
    names = [v.name for v in optimizer.variables[2:]]
    assert names == ["made 0", "mixed/a_slot", "made 1", "mixed/b_slot"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_holds_it(tmp_path, kind):
    def train(steps):
        x, optimizer = Variable(0.0, name="x"), type("Mine", (Halving,), {"kind": kind})(1.0, name="halving")
        saved = Checkpointer(tmp_path, optimizer=optimizer, variables=[x])
        saved.restore()
        for _ in range(steps):
            optimizer.apply_gradients([(1.0, x)])
        saved.save()
        saved.wait()
        return float(x)

    train(2)
    assert train(2) == -0.9375


def test_replicas_take_it_from_replica_0():
    def train():
        x, optimizer = Variable(0.0), Halving(1.0)
        optimizer.apply_gradients([(0.5, x)])
        return float(x), len(optimizer.variables)

    assert simulate(2, train) == [(-0.5, 3)] * 2


def test_parameters_in_a_list_are_listed_as_in_keras_but_no_state():
    class Holding(SGD):
        def build(self, variables):
            super().build(variables)
            self.held = list(variables)

    x, optimizer = Variable(1.0, name="x"), Holding(0.5)
    optimizer.apply_gradients([(1.0, x)])
    assert [v.name for v in optimizer.variables] == ["iteration", "learning_rate", "x"]
    assert [v.name for v in family_of(optimizer).state()] == ["iteration"]


def test_tracking_by_hand():
    a, b, optimizer = Variable(1.0, name="a"), Variable(2.0, name="b"), SGD()
    optimizer._track_variable(a)
    optimizer.b = b
    optimizer._track_variable(optimizer._iterations)
    assert [v.name for v in optimizer.variables] == ["iteration", "learning_rate", "a", "b"]
    optimizer._untrack_variable(a)
    optimizer._untrack_variable(optimizer._learning_rate)
    assert [v.name for v in optimizer.variables] == ["iteration", "b"]
    optimizer._variables.append(a)
    optimizer._variables.remove(b)
    assert [v.name for v in optimizer.variables] == ["iteration", "a"]
    optimizer._track_variable([b, np.ones(3)])
    assert [v.name for v in optimizer._variables] == ["iteration", "a", "b"]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies_have_their_own(how):
    x, optimizer = Variable(0.0), Adam(0.1)
    optimizer.u, optimizer.held = Variable(1.0), [Variable(2.0)]
    optimizer.apply_gradients([(1.0, x)])
    _, twin = how((x, optimizer))
    twin.u.assign(5.0)
    twin.held[0].assign(6.0)
    assert [float(v) for v in twin.variables[2:4]] == [5.0, 6.0] or float(twin.variables[2]) == 5.0
    assert 6.0 in [float(v) for v in twin.variables if v.shape == ()]
    assert float(optimizer.u) == 1.0
    assert len(twin.variables) == len(optimizer.variables)


def test_a_slot_may_be_like_a_variable_that_is_not_trained(tmp_path):
    class Like(SGD):
        def build(self, variables):
            super().build(variables)
            self.before = [Variable(variable.numpy()) for variable in variables]
            self.like = self.add_optimizer_variables(self.before, "like", "ones")

    def made():
        x, optimizer = Variable([0.0], name="x"), Like(0.5, name="like")
        optimizer.build([x])
        return x, optimizer, Checkpointer(tmp_path, optimizer=optimizer, variables=[x])

    x, optimizer, saved = made()
    optimizer.like[0].assign([3.0])
    optimizer.apply_gradients([([1.0], x)])
    saved.save()
    saved.wait()
    y, again, stored = made()
    stored.restore()
    assert (float(y[0]), float(again.like[0][0])) == (-0.5, 3.0)


def test_a_wrapper_adds_the_state_of_its_inner_optimizer(tmp_path):
    class Wrapped(Optimizer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = SGD(0.5, momentum=0.5, name="inner")

        def build(self, variables):
            super().build(variables)
            self.inner.build(variables)

        @property
        def variables(self):
            return self._variables + self.inner.variables

        def _backend_update_step(self, grads, trainable_variables, learning_rate):
            self.inner.apply_gradients(
                zip(grads, trainable_variables, strict=True), experimental_aggregate_gradients=False
            )

    def train(steps, *, resumes):
        x, optimizer = Variable(0.0, name="x"), Wrapped(name="wrapped")
        saved = Checkpointer(tmp_path, optimizer=optimizer, variables=[x])
        if resumes:
            saved.restore()
        for _ in range(steps):
            optimizer.apply_gradients([(1.0, x)])
        saved.save()
        saved.wait()
        return float(x), len(optimizer.get_weights())

    train(2, resumes=False)
    assert train(2, resumes=True) == (-3.0625, 5)


def test_slots_for_several_names_and_variables():
    class Two(SGD):
        def build(self, variables):
            if not self.built:
                super().build(variables)
                self.m, self.v = self.add_optimizer_variables(variables, ["m", "v"], ["zeros", "ones"])
                self.w = self.add_optimizer_variables(variables, "w", initializer="ones")

    a, b, optimizer = Variable([1.0], name="a"), Variable([[1.0]], name="b"), Two(name="two")
    optimizer.build([a, b])
    names = [v.name.removeprefix("two/") for v in optimizer.variables[2:]]
    assert names == ["a_m", "a_v", "b_m", "b_v", "a_w", "b_w"]
    assert [v.numpy().item() for v in (*optimizer.m, *optimizer.v, *optimizer.w)] == [0, 0, 1, 1, 1, 1]
    with pytest.raises(InvalidArgumentError, match="2 initializers"):
        optimizer.add_optimizer_variables([a], ["m"], ["zeros", "ones"])


@pytest.mark.parametrize(
    ("initializer", "low", "high"),
    [
        ("random_normal", -0.5, 0.5),
        ("RandomUniform", -0.05, 0.05),
        ("truncated_normal", -0.1, 0.1),
        ("Ones", 1, 1),
        (np.full((20, 20), 3.0), 3, 3),
        (lambda shape, dtype: np.full(shape, 2, dtype), 2, 2),
    ],
)
def test_initializers(initializer, low, high):
    def make():
        return SGD().add_variable((20, 20), initializer=initializer, dtype="float32", name="m").numpy()

    made = simulate(2, make)
    assert low <= float(made[0].min()) <= float(made[0].max()) <= high
    np.testing.assert_array_equal(*made)
    assert made[0].dtype == np.float32


def test_initializers_that_can_not_be_are_refused():
    for initializer in ("nothing", None, np.ones(3)):
        with pytest.raises(InvalidArgumentError, match=r"nothing|of a variable of shape"):
            SGD().add_variable((2,), initializer=initializer)
    assert SGD().add_variable((2, 2), "identity").numpy().tolist() == [[1, 0], [0, 1]]
    assert SGD().add_variable((), "zeros", "int64", "none", None, "count").name == "count"


def test_slots_go_through_an_add_variable_of_the_users():
    class Wide(Optimizer):
        def add_variable(self, shape, initializer="zeros", dtype=None, name=None):
            return super().add_variable(shape, initializer=initializer, dtype="float64", name=name)

        def build(self, variables):
            super().build(variables)
            self.sums = self.add_optimizer_variables(variables, "sum")

        def update_step(self, gradient, variable, learning_rate):
            self.assign_add(self.sums[self._get_variable_index(variable)], gradient)

    x, optimizer = Variable([1.0]), Wide()
    optimizer.apply_gradients([([2.0], x)])
    assert (optimizer.sums[0].dtype, float(optimizer.sums[0][0])) == (np.float64, 2.0)


def test_variables_are_found_by_a_key_of_the_users():
    class ByName(SGD):
        def _var_key(self, variable):
            return variable.name

    x, optimizer = Variable([1.0], name="x"), ByName()
    optimizer.build([x])
    assert optimizer._get_variable_index(Variable([5.0], name="x")) == 0


def test_assigning_through_the_optimizer():
    x, optimizer = Variable([[1.0], [2.0]]), SGD()
    optimizer.assign(x, IndexedSlices([[5.0]], [1], (2, 1)))
    assert x.numpy().tolist() == [[1.0], [5.0]]
    optimizer.assign(x, [[1.0], [1.0]], read_value=False)
    optimizer.assign_add(x, [[1.0], [1.0]], use_locking=True)
    optimizer.assign_sub(x, [[0.5], [0.5]], True, read_value=False)
    assert x.numpy().tolist() == [[1.5], [1.5]]


def test_a_counter_of_the_users():
    x, optimizer, counter = Variable(0.0), SGD(lambda: 1.0), Variable(np.int64(7))
    optimizer._iterations = counter
    assert optimizer.apply_gradients([(1.0, x)]) is counter
    assert (int(optimizer.iterations), int(counter)) == (8, 8)
    assert optimizer.variables == [counter]
    with pytest.raises(InvalidArgumentError, match="counts in a Variable of an integer"):
        optimizer._iterations = 3


def test_arguments_by_position_stand_in_the_order_of_keras():
    sgd = SGD(0.1, 0.9, False, 0.01, 1.0, None, None, True, 0.5, 3, None, 2, "mine")
    assert (sgd.weight_decay, sgd.clipnorm, sgd.use_ema, sgd.ema_momentum) == (0.01, 1.0, True, 0.5)
    assert (sgd.ema_overwrite_frequency, sgd.gradient_accumulation_steps, sgd.name) == (3, 2, "mine")
    assert Optimizer(0.1, 0.02).weight_decay == 0.02
    with pytest.raises(TypeError):
        SGD(0.1, 0.9, False, 0.01, 1.0, None, None, True, 0.5, 3, None, 2, "mine", 5)


def test_a_copy_leaves_no_id_that_another_object_may_get():
    optimizer, memo = SGD(0.5, momentum=0.5), {}
    optimizer.build([Variable([1.0])])
    copy.deepcopy(optimizer, memo)
    alive = {id(each) for each in memo[id(memo)]}
    assert not memo.keys() - alive - {id(memo)}
