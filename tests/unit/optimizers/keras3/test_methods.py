"""Methods that a subclass overrides are called in Keras' order, before the sum or behind it, or refused."""

import numpy as np
import pytest

from distopt import IndexedSlices, Strategy, Variable, get_strategy, num_replicas, replica_index, simulate
from distopt.optimizers import SGD, Adam, Lamb, LossScaleOptimizer, MultiOptimizer, Optimizer, OptimizerMap


class TenTimes(SGD):
    def apply(self, grads, trainable_variables=None):
        return super().apply([None if g is None else g * 10 for g in grads], trainable_variables)


def test_apply_is_called_by_apply_gradients_and_minimize():
    x, y = Variable(1.0), Variable(1.0)
    optimizer = TenTimes(0.1)
    assert int(optimizer.apply_gradients([(1.0, x)])) == 1
    assert float(x) == 0.0
    TenTimes(0.1).minimize(lambda: y * 1.0, [y])
    assert float(y) == 0.0


def test_apply_sees_what_there_is_and_hands_on_how_the_step_is_done():
    class Seen(SGD):
        def apply(self, grads, trainable_variables=None):
            seen.append([g if g is None else float(g) for g in grads])
            return super().apply(grads, trainable_variables)

    def train():
        x, y = Variable(1.0), Variable(1.0)
        optimizer = Seen(1.0)
        mine = float(replica_index() + 1)
        optimizer.apply_gradients([(mine if replica_index() else None, x), (mine, y)], items=3)
        optimizer.apply_gradients([(1.0, x), (1.0, y)], experimental_aggregate_gradients=False)
        return float(x), float(y)

    seen: list = []
    results = simulate(2, train)
    assert sorted(seen, key=repr) == [[1.0, 1.0], [1.0, 1.0], [2.0, 2.0], [None, 1.0]]
    np.testing.assert_allclose(results, [[1 - 2 / 6 - 1, 1 - 3 / 6 - 1]] * 2, rtol=1e-6)


def test_a_filter_sees_this_replicas_gradients():
    class Zeros(SGD):
        def _filter_empty_gradients(self, grads, vars):
            return [np.float32(2.0) if g is None else g for g in grads], vars

    class Fewer(SGD):
        def _filter_empty_gradients(self, grads, vars):
            kept = [(g, v) for g, v in zip(grads, vars, strict=True) if v.name != "y"]
            return super()._filter_empty_gradients(*zip(*kept, strict=True))

    for cls, expected in ((Zeros, [-2.0, -1.0]), (Fewer, [0.0, 0.0])):
        x, y, z = Variable(0.0, name="x"), Variable(0.0, name="y"), Variable(0.0, name="z")
        optimizer = cls(1.0)
        if cls is Zeros:
            optimizer.apply_gradients([(None, x), (1.0, y), (0.0, z)])
        else:
            with pytest.warns(UserWarning, match=r"\['y'\]"):
                optimizer.apply_gradients([(0.0, x), (1.0, y), (1.0, z)])
        assert [float(x), float(y)] == expected


@pytest.mark.parametrize("streams", [False, True])
def test_what_sees_all_gradients_of_a_replica_refuses_streams(streams):
    class Own(SGD):
        def apply_gradients(self, grads_and_vars):
            return super().apply_gradients(grads_and_vars)

    x = Variable(1.0)
    cls = Own if streams else TenTimes
    with pytest.raises(ValueError, match=rf"begin_step: {cls.__name__} overrides"):
        cls(1.0).begin_step([x])
    y = Variable(1.0)
    Own(1.0).minimize(lambda: y * 1.0, [y])  # upstream's signature has no name
    assert float(y) == 0.0


def test_decay_can_be_left_out_or_chosen():
    class Never(SGD):
        def _apply_weight_decay(self, variables):
            assert [v.name for v in variables] == ["x", "bias"]

    class Chosen(SGD):
        def _use_weight_decay(self, variable):
            return "bias" not in variable.name

    class Twice(Adam):
        def _apply_weight_decay(self, variables):
            super()._apply_weight_decay(variables)
            super()._apply_weight_decay(variables)

    def stepped(cls, gradient):
        x, bias = Variable(1.0, name="x"), Variable(1.0, name="bias")
        cls(0.5, weight_decay=0.1).apply_gradients([(gradient, x), (gradient, bias)])
        return [float(x), float(bias)]

    assert stepped(Never, 1.0) == [0.5, 0.5]
    np.testing.assert_allclose(stepped(Chosen, 1.0), [0.45, 0.5], rtol=1e-6)
    np.testing.assert_allclose(stepped(Twice, 0.0), [0.95**2] * 2, rtol=1e-6)


def test_a_decay_of_the_users_gives_the_bits_of_the_built_in_one():
    class Same(Adam):
        def _apply_weight_decay(self, variables):
            super()._apply_weight_decay(variables)

    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(50, 3)).astype(np.float32), rng.normal(size=(4, 50, 3)).astype(np.float32)
    results = []
    for cls in (Adam, Same):
        x = Variable(start)
        optimizer = cls(0.01, weight_decay=0.1, clipnorm=0.5)
        for gradient in gradients:
            optimizer.apply_gradients([(gradient, x)])
        results.append(x.numpy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("limit", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_limits_see_the_sum_and_base_limits_have_the_same_bits(limit):
    class Doubled(SGD):
        def _clip_gradients(self, grads):
            return super()._clip_gradients([None if g is None else 2 * g for g in grads])

    def train(cls, factor):
        rng = np.random.default_rng(replica_index())
        x, table = Variable(np.zeros((70, 100), np.float32)), Variable(np.zeros((4, 2), np.float32))
        g = rng.normal(size=x.shape).astype(np.float32) * np.float32(factor)
        rows = IndexedSlices(np.full((2, 2), factor, np.float32), [1, 1], (4, 2))
        cls(1.0, **{limit: 0.25}).apply_gradients([(g, x), (rows, table)])
        return x.numpy(), table.numpy()

    for replicas in (1, 2):
        doubled, plain = (simulate(replicas, lambda c=c, f=f: train(c, f))[0] for c, f in ((Doubled, 1), (SGD, 2)))
        np.testing.assert_array_equal(doubled[0], plain[0])
        np.testing.assert_array_equal(doubled[1], plain[1])


def test_clip_by_norm_is_called_where_norms_are_limited():
    class Half(SGD):
        def _clip_by_norm(self, values, axes=None):
            return super()._clip_by_norm(values, axes) / 2

    x, y, z = Variable([0.0, 0.0]), Variable([0.0, 0.0]), Variable([[0.0, 0.0]])
    Half(1.0, clipnorm=1.0).apply_gradients([([3.0, 4.0], x)])
    Half(1.0, clipvalue=1.0).apply_gradients([([3.0, 4.0], y)])
    np.testing.assert_allclose(x.numpy(), [-0.3, -0.4], rtol=1e-6)
    np.testing.assert_allclose(y.numpy(), [-1.0, -1.0])
    np.testing.assert_allclose(SGD(clipnorm=1.0)._clip_by_norm(np.array([[3.0, 0.0]]), axes=1), [[1.0, 0.0]])
    assert z.shape == (1, 2)


class AllTogether(Optimizer):
    """Updates by the norm of all gradients, as optimizers that override ``_backend_update_step`` do."""

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        self.update_step(grads, trainable_variables, learning_rate)

    def update_step(self, grads, trainable_variables, learning_rate):
        self.squares = sum(float(np.sum(np.square(g))) for g in grads)
        for g, variable in zip(grads, trainable_variables, strict=True):
            self.assign_sub(variable, learning_rate * g / np.float32(self.squares))


def test_all_variables_are_updated_together():
    def train():
        x, y = Variable([0.0, 0.0]), Variable([0.0])
        optimizer = AllTogether(1.0)
        share = np.float32(1 / num_replicas())
        optimizer.apply_gradients([(np.float32([3, 4]) * share, x), (np.float32([12]) * share, y)])
        return optimizer.squares, x.numpy().tolist()

    assert train()[0] == 169
    for squares, x in simulate(2, train):
        assert squares == 169
        np.testing.assert_allclose(x, [-3 / 169, -4 / 169], rtol=1e-6)


def test_the_built_in_update_behind_a_method_of_the_users():
    class Twice(Adam):
        def _backend_update_step(self, grads, trainable_variables, learning_rate):
            super()._backend_update_step([2 * g for g in grads], trainable_variables, learning_rate)

    class Slower(Lamb):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(gradient, variable, learning_rate / 2)

    for cls, plain, rate, factor in ((Twice, Adam, 0.1, 2), (Slower, Lamb, 0.05, 1)):
        x, y = Variable([1.0, 2.0]), Variable([1.0, 2.0])
        mine, theirs = cls(0.1), plain(rate)
        for g in ([0.1, 0.3], [0.2, -0.1]):
            mine.apply_gradients([(np.float32(g), x)])
            theirs.apply_gradients([(np.float32(g) * factor, y)])
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", ["learning_rate", "_get_current_learning_rate"])
def test_the_learning_rate_can_be_computed(name):
    class Mine(SGD):
        pass

    def rate(self):
        return 0.5 / (int(self.iterations) + 1)

    setattr(Mine, name, property(rate) if name == "learning_rate" else rate)
    x = Variable(0.0)
    mine = Mine(9.0, weight_decay=0.0)
    for _ in range(2):
        mine.apply_gradients([(1.0, x)])
    assert float(x) == -0.75
    assert float(mine.learning_rate) == pytest.approx(0.5 / 3)


def test_a_method_set_on_the_optimizer_is_called_too():
    x, sgd = Variable(1.0), SGD(0.5)
    sgd._clip_gradients = lambda grads: [g * 0 for g in grads]
    sgd.apply_gradients([(1.0, x)])
    assert float(x) == 1.0
    with pytest.raises(NotImplementedError, match="SGD overrides assign_sub"):
        sgd.assign_sub = lambda variable, value: None


def test_inner_optimizers_call_their_methods():
    class Half(SGD):
        def _clip_gradients(self, grads):
            return [g / 2 for g in grads]

    def loss_scaled():
        return LossScaleOptimizer(Half(1.0), initial_scale=4.0), 4.0

    def several():
        return MultiOptimizer(OptimizerMap(Half(1.0), {".*bias": SGD(1.0)})), 1.0

    for make in (loss_scaled, several):
        x, bias = Variable(0.0, name="x"), Variable(0.0, name="bias")
        optimizer, scale = make()
        optimizer.apply_gradients([(scale, x), (0.0, bias)])
        assert float(x) == -0.5
    for cls, inner in ((LossScaleOptimizer, TenTimes()), (MultiOptimizer, OptimizerMap(TenTimes()))):
        with pytest.raises(ValueError, match="TenTimes overrides apply, which see the gradients of a replica"):
            cls(inner)


def test_errors_in_the_users_methods_surface_as_they_are():
    class Wrong(SGD):
        @property
        def learning_rate(self):
            return self.nowhere

    class WrongUpdate(SGD):
        def update_step(self, gradient, variable, learning_rate):
            return gradient.nowhere

    with pytest.raises(AttributeError, match="'Wrong' object has no attribute 'nowhere'"):
        Wrong().apply_gradients([(1.0, Variable(1.0))])
    with pytest.raises(AttributeError, match="has no attribute 'nowhere'"):
        WrongUpdate().apply_gradients([(1.0, Variable(1.0))])


@pytest.mark.parametrize(
    "name", ["_clip_gradients", "_clip_by_norm", "_apply_weight_decay", "_use_weight_decay", "update_step"]
)
def test_shared_mode_refuses_by_the_name_of_the_method(name):
    def train():
        with Strategy(get_strategy().communicator, update="shared").scope():
            cls = type("Mine", (SGD,), {name: lambda self, *args: None})
            cls().apply_gradients([(1.0, Variable(1.0))])

    with pytest.raises(ValueError, match=f"Mine, whose {name} sees the whole sum, needs parameters"):
        simulate(2, train)
