"""Methods of the legacy family that users override: what each sees, and when it is called."""

import numpy as np
import pytest

from distopt import IndexedSlices, Variable, replica_index, simulate
from distopt.constraints import NonNeg
from distopt.optimizers import legacy


def one(variable):
    return [(np.ones(variable.shape, variable.dtype), variable)]


NAME, OTHER = "_resource_apply_dense", "_transform_gradients"
ORDER = {
    "_compute_gradients": "compute",
    "_transform_loss": "loss",
    "_get_gradients": "get",
    "_assert_valid_dtypes": "dtypes",
    "_create_all_weights": "weights",
    "_prepare": "prepare",
    "_transform_unaggregated_gradients": "unaggregated",
    "_aggregate_gradients": "aggregate",
    "_transform_gradients": "transform",
    "_distributed_apply": "apply",
}


def told(name, calls):
    """An override that says that it was called."""

    def method(self, *args, **kwargs):
        calls.append(ORDER[name])
        return getattr(legacy.SGD, name)(self, *args, **kwargs)

    return method


def test_hooks_are_called_in_upstreams_order():
    calls = []
    cls = type("Told", (legacy.SGD,), {name: told(name, calls) for name in ORDER})
    x, optimizer = Variable([1.0]), cls(0.5)
    optimizer.minimize(lambda: 2 * x, [x])
    assert (float(x[0]), int(optimizer.iterations)) == (0.0, 1)
    assert calls[:6] == ["compute", "loss", "get", "dtypes", "weights", "unaggregated"]
    # What is summed is known before hyperparameters are evaluated: a failure of a method tells the other replicas.
    assert list(dict.fromkeys(calls[6:])) == ["weights", "prepare", "aggregate", "transform", "apply"]


class Clipped(legacy.SGD):
    """Limits what each replica computes, as DP-SGD does."""

    def _compute_gradients(self, loss, var_list, grad_loss=None, tape=None):
        pairs = super()._compute_gradients(loss, var_list, grad_loss, tape)
        return [(np.clip(gradient, -1, 1), variable) for gradient, variable in pairs]


class ClippedLater(legacy.SGD):
    def _transform_unaggregated_gradients(self, grads_and_vars):
        return [(np.clip(gradient, -1, 1), variable) for gradient, variable in grads_and_vars]


class ClippedByTape(legacy.SGD):
    def _get_gradients(self, tape, loss, var_list, grad_loss=None):
        pairs = super()._get_gradients(tape, loss, var_list, grad_loss)
        return [(np.clip(gradient, -1, 1), variable) for gradient, variable in pairs]


@pytest.mark.parametrize("cls", [Clipped, ClippedLater, ClippedByTape])
def test_what_comes_before_the_sum_sees_this_replicas_gradients(cls):
    def train():
        x, y, sgd = Variable([0.0]), Variable([0.0]), cls(1.0)
        slope = (3.0, -0.5)[replica_index()]
        sgd.minimize(lambda: slope * x + 0.25 * y, [x, y])
        return float(x[0]), float(y[0])

    assert simulate(2, train) == [(-0.5, -0.5)] * 2


def test_transformed_losses_have_transformed_gradients():
    class Doubled(legacy.SGD):
        def _transform_loss(self, loss):
            return loss * 2

    x, y = Variable([1.0]), Variable([1.0])
    Doubled(0.5).minimize(lambda: 1.0 * x, [x])
    plain = legacy.LossScaleOptimizer(Doubled(0.5), initial_scale=8.0)
    plain.minimize(lambda: 1.0 * y, [y])
    assert float(x[0]) == float(y[0]) == 0.0


def test_gradients_that_are_missing_on_one_replica_pass_by_the_hook():
    seen = []

    class Told(legacy.SGD):
        def _transform_unaggregated_gradients(self, grads_and_vars):
            seen.append([variable.name for _, variable in grads_and_vars])
            return [(2 * gradient, variable) for gradient, variable in grads_and_vars]

    def train():
        x, y, z = (Variable([0.0], name=name) for name in "xyz")
        has = replica_index() == 1
        Told(1.0).apply_gradients([([1.0] if has else None, x), ([2.0], y), ([3.0] if has else None, z)])
        return [float(v[0]) for v in (x, y, z)]

    assert simulate(2, train) == [[-2.0, -8.0, -6.0]] * 2
    assert sorted(seen) == [["x", "y", "z"], ["y"]]


def test_without_aggregation_the_hook_before_it_is_not_called():
    x = Variable([0.0])
    ClippedLater(1.0).apply_gradients([([3.0], x)], experimental_aggregate_gradients=False)
    assert float(x[0]) == -3.0


@pytest.mark.parametrize("name", ["_transform_gradients", "_clip_gradients"])
def test_what_comes_behind_the_sum_sees_the_aggregate_in_the_place_of_limits(name):
    seen = []

    class Pairs(legacy.SGD):
        def _transform_gradients(self, grads_and_vars):
            seen.append([gradient.tolist() for gradient, _ in grads_and_vars])
            return [(gradient / 2, v) for gradient, v in super()._transform_gradients(grads_and_vars)]

    class Gradients(legacy.SGD):
        def _clip_gradients(self, grads):
            seen.append([gradient.tolist() for gradient in grads])
            return [gradient / 2 for gradient in super()._clip_gradients(grads)]

    cls = Pairs if name == "_transform_gradients" else Gradients

    def train():
        x, y = Variable([0.0]), Variable([0.0])
        optimizer = cls(1.0, global_clipnorm=5.0)
        optimizer.apply_gradients([([3.0], x), ([4.0], y)])
        return float(x[0]), float(y[0]), optimizer.global_clipnorm

    assert simulate(2, train) == [(-1.5, -2.0, 5.0)] * 2
    assert seen == [[[6.0], [8.0]]] * 2


def test_transformers_follow_an_own_limit():
    class Limited(legacy.SGD):
        def _clip_gradients(self, grads):
            return [np.minimum(gradient, 1) for gradient in grads]

    x = Variable([0.0])
    optimizer = Limited(1.0, gradient_transformers=[lambda pairs: [(3 * g, v) for g, v in pairs]])
    optimizer.apply_gradients([([5.0], x)])
    assert float(x[0]) == -3.0
    optimizer.gradient_transformers = None
    optimizer.apply_gradients([([5.0], x)])
    assert float(x[0]) == -4.0


def test_limits_of_a_list_have_the_bits_of_a_step():
    class Own(legacy.SGD):
        def _transform_gradients(self, grads_and_vars):
            return super()._transform_gradients(grads_and_vars)

    rng = np.random.default_rng(3)
    for limits in (
        {"clipvalue": 0.5},
        {"clipnorm": 0.7},
        {"global_clipnorm": 0.9},
        {"clipvalue": 0.3, "clipnorm": 0.5},
    ):
        results = []
        gradients = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 4), (5,), ())]
        for cls in (legacy.SGD, Own):
            variables = [Variable(np.ones(g.shape, np.float32)) for g in gradients] + [Variable(np.ones((4, 2), "f4"))]
            rows = IndexedSlices(np.float32([[1, 2], [3, 4], [5, 6]]), [1, 1, 3], (4, 2))
            cls(1.0, **limits).apply_gradients(zip([*gradients, rows], variables, strict=True))
            results.append([v.numpy() for v in variables])
        for mine, other in zip(*results, strict=True):
            np.testing.assert_array_equal(mine, other)


def test_an_own_distributed_apply_counts_as_it_does_upstream():
    class Twice(legacy.SGD):
        def _distributed_apply(self, distribution, grads_and_vars, apply_state, name):
            doubled = [(2 * gradient, variable) for gradient, variable in grads_and_vars]
            return super()._distributed_apply(distribution, doubled, apply_state, name)

    class Never(legacy.SGD):
        def _distributed_apply(self, distribution, grads_and_vars, apply_state, name):
            return None

    x, table = Variable([1.0], constraint=NonNeg()), Variable([[0.0], [0.0]])
    rows = IndexedSlices([[1.0], [1.0]], [1, 1], (2, 1))
    optimizer = Twice(1.0)
    assert int(optimizer.apply_gradients([([3.0], x), (rows, table)])) == 1
    assert (float(x[0]), table.numpy().ravel().tolist()) == (0.0, [0.0, -4.0])
    assert int(Never(1.0).apply_gradients(one(x))) == 0


def test_gradients_that_a_method_keeps_are_its_own():
    class Differences(legacy.Optimizer):
        last = np.float32([0.0])

        def _resource_apply_dense(self, grad, var, apply_state=None):
            var.assign_sub(grad - self.last)
            self.last = grad

    x, kept = Variable([0.0]), []
    optimizer = Differences("Differences", gradient_transformers=[lambda pairs: kept.append(pairs[0][0]) or pairs])
    for gradient in (1.0, 3.0, 6.0):
        optimizer.apply_gradients([([gradient], x)])
    assert float(x[0]) == -6.0
    assert [float(gradient[0]) for gradient in kept] == [1.0, 3.0, 6.0]


def test_slots_are_there_before_hyperparameters_where_a_method_may_look():
    class Seeing(legacy.SGD):
        def _create_slots(self, var_list):
            for var in var_list:
                self.add_slot(var, "scale", initializer="ones")

        def _prepare(self, var_list):
            self.seen = [float(self.get_slot(var, "scale")[0]) for var in var_list]
            return super()._prepare(var_list)

    x, y, optimizer = Variable([0.0]), Variable([0.0]), Seeing(1.0)
    optimizer.apply_gradients([*one(x), (None, y)])
    assert optimizer.seen == [1.0]
    assert len(optimizer.weights) == 2


def test_anything_may_stand_in_apply_state():
    class Mine(legacy.SGD):
        def _prepare_local(self, var_device, var_dtype, apply_state):
            super()._prepare_local(var_device, var_dtype, apply_state)
            apply_state[var_device, var_dtype].update(masked=np.float32("nan"), big=np.inf, names=["a"], what=None)

        def _prepare(self, var_list):
            return super()._prepare(var_list) | {"weight_decay_rate": 0.1, ("a", "b", "c"): {"x": np.nan}}

    x = Variable([1.0])
    Mine(0.5).apply_gradients(one(x))
    assert float(x[0]) == 0.5
    rate = Variable(np.float32("nan"))
    with pytest.raises(ValueError, match=r"hyperparameter learning_rate \(float32\) of 'SGD' is nan"):
        Mine(rate).apply_gradients(one(x))


def test_methods_that_a_rule_would_not_call_are_refused():
    class Slots(legacy.Adam):
        def get_slot(self, var, slot_name):
            return super().get_slot(var, slot_name)

    class Scatter(legacy.Adam):
        def _resource_scatter_add(self, x, i, v):
            return super()._resource_scatter_add(x, i, v)

    x, table = Variable([1.0]), Variable([[1.0]])
    with pytest.raises(NotImplementedError, match="Slots overrides get_slot, which its base calls upstream"):
        Slots().apply_gradients(one(x))
    Scatter().apply_gradients(one(x))
    with pytest.raises(NotImplementedError, match="Scatter overrides _resource_scatter_add"):
        Scatter().apply_gradients([(IndexedSlices([[1.0]], [0], (1, 1)), table)])


def test_a_method_that_is_set_on_the_optimizer_itself_is_called_or_refused():
    x, sgd = Variable([1.0]), legacy.SGD(0.5)
    setattr(sgd, NAME, lambda grad, var: var.assign(7 * grad))
    sgd.apply_gradients(one(x))
    assert float(x[0]) == 7.0
    with pytest.raises(ValueError, match="_transform_gradients was set on the optimizer 'SGD'"):
        setattr(sgd, OTHER, lambda pairs: pairs)


def test_streamed_steps_refuse_what_they_would_not_call():
    with pytest.raises(ValueError, match="begin_step: ClippedLater overrides _transform_unaggregated_gradients"):
        ClippedLater(1.0).begin_step([Variable([1.0])])


def test_errors_in_methods_and_properties_of_the_users_surface():
    class Mine(legacy.SGD):
        @property
        def factor(self):
            return self.not_there

        def _transform_unaggregated_gradients(self, grads_and_vars):
            raise TypeError("mine")

    with pytest.raises(AttributeError, match="not_there"):
        _ = Mine(0.1).factor
    with pytest.raises(TypeError, match=r"^mine$"):
        Mine(0.1).apply_gradients(one(Variable([1.0])))


def test_the_bases_sum_keeps_the_rows_of_sparse_gradients():
    class Doubled(legacy.SGD):
        def _aggregate_gradients(self, grads_and_vars):
            return [(gradient * 2, variable) for gradient, variable in super()._aggregate_gradients(grads_and_vars)]

    def train(cls, factor):
        table, sgd = Variable(np.ones((3, 1), np.float32)), cls(0.5, momentum=0.5, clipnorm=3.0)
        for row in (0, 1):
            values = np.float32([[1.0], [2.0]]) * factor
            sgd.apply_gradients([(IndexedSlices(values, [row, row + replica_index()], (3, 1)), table)])
        return table.numpy().ravel().tolist()

    assert simulate(2, train, Doubled, 1) == simulate(2, train, legacy.SGD, 2)


@pytest.mark.parametrize(("momentum", "moved"), [(0.0, -1.0), (0.5, -11.0)])
def test_rows_of_plain_gradient_descent_are_added_without_a_call(momentum, moved):
    """As upstream: SGD without momentum adds rows itself, and never calls _resource_apply_sparse."""

    class Decaying(legacy.SGD):
        def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
            var.assign_sub(var * 0 + 10)
            super()._resource_apply_sparse(grad, var, indices, apply_state)

    table = Variable([[0.0]])
    Decaying(1.0, momentum=momentum).apply_gradients([(IndexedSlices([[1.0]], [0], (1, 1)), table)])
    assert float(table[0, 0]) == moved
