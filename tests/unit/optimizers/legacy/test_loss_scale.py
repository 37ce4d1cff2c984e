"""The loss-scale optimizer of the legacy family."""

import copy
import json
import pickle

import numpy as np
import pytest

import distopt
from distopt import GradientTape, IndexedSlices, Variable, simulate
from distopt.checkpoint import Checkpointer
from distopt.optimizers import legacy

INF = float("inf")
unscaled = pytest.mark.filterwarnings("ignore:LossScaleOptimizer.apply_gradients was called")


def test_clipping_follows_the_unscaling_and_the_scale_the_gradients():
    """Upstream's testClipping: each scale, and what is clipped is the true gradient."""
    x = Variable([5.0])
    optimizer = legacy.LossScaleOptimizer(legacy.SGD(2.0, clipnorm=2.0), initial_scale=2, dynamic_growth_steps=1)
    seen = []
    for slope in (np.float32(8), np.float32(1.5), np.float32(INF)):
        optimizer.minimize(lambda: slope * x, [x])  # noqa: B023
        seen.append((float(x[0]), optimizer.loss_scale, int(optimizer.iterations)))
    assert seen == [(1.0, 4.0, 1), (-2.0, 8.0, 2), (-2.0, 4.0, 3)]


@unscaled
def test_a_dynamic_scale_grows_and_halves():
    x = Variable([1.0])
    optimizer = legacy.LossScaleOptimizer(legacy.SGD(0.0), initial_scale=2, dynamic_growth_steps=2)
    scales = []
    for gradient in (1.0, 1.0, 1.0, INF, 1.0, np.nan, np.nan):
        optimizer.apply_gradients([([gradient], x)])
        scales.append((optimizer.loss_scale, int(optimizer.dynamic_counter)))
    assert scales == [(2, 1), (4, 0), (4, 1), (2, 0), (2, 1), (1, 0), (1, 0)]
    assert int(optimizer.apply_gradients([])) == 7


@unscaled
def test_a_fixed_scale_leaves_no_step_out():
    x = Variable([1.0])
    optimizer = legacy.LossScaleOptimizer(legacy.SGD(1.0), dynamic=False, initial_scale=3.0)
    optimizer.apply_gradients([([INF], x)])
    assert (float(x[0]), optimizer.loss_scale, optimizer.dynamic_counter, int(optimizer.iterations)) == (
        -INF, 3.0, None, 1
    )  # fmt: skip


def test_scaling_by_hand():
    x, table = Variable([1.0]), Variable([[1.0], [2.0]])
    optimizer = legacy.LossScaleOptimizer(legacy.SGD(0.5), initial_scale=8)
    with GradientTape() as tape:
        loss = optimizer.get_scaled_loss(x * x + table[np.array([1])][0])
    gradients = tape.gradient(loss, [x, table])
    assert float(gradients[0][0]) == 16.0
    gradients = optimizer.get_unscaled_gradients([*gradients, None])
    assert isinstance(gradients[1], IndexedSlices)
    assert gradients[2] is None
    optimizer.apply_gradients(zip(gradients[:2], [x, table], strict=True))
    assert (float(x[0]), table.numpy().tolist()) == (0.0, [[1.0], [1.5]])
    half = optimizer.get_unscaled_gradients([np.full(2, 8, np.float16)])[0]
    assert (half.dtype, half.tolist()) == (np.float16, [1.0, 1.0])


def test_minimize_with_a_tape_and_output_gradients():
    x, y = Variable([2.0]), Variable([2.0])
    scaled, plain = legacy.LossScaleOptimizer(legacy.SGD(0.125)), legacy.SGD(0.125)
    for grad_loss in (None, [3.0]):
        for optimizer, variable in ((scaled, x), (plain, y)):
            with GradientTape() as tape:
                loss = variable**2
            optimizer.minimize(loss, [variable], grad_loss=grad_loss, tape=tape)
    assert float(x[0]) == float(y[0]) == 1.5 - 0.125 * 3 * 3.0
    with pytest.raises(ValueError, match="`tape` is required"):
        scaled.minimize(1.0, [x])


def test_who_forgets_to_scale_is_told_once():
    x, optimizer = Variable([1.0]), legacy.LossScaleOptimizer(legacy.SGD(1.0))
    with pytest.warns(UserWarning, match="get_scaled_loss and get_unscaled_gradients never before"):
        optimizer.apply_gradients([([1.0], x)])
    optimizer.apply_gradients([([1.0], x)])


@unscaled
def test_everything_else_is_the_inner_optimizers():
    x, inner = Variable([1.0], name="x"), legacy.Adam(0.5, clipnorm=1.0)
    optimizer = legacy.LossScaleOptimizer(inner)
    optimizer.lr, optimizer.clipnorm, optimizer.iterations = 0.25, None, Variable(np.int64(4))
    assert (float(inner.learning_rate), inner.clipnorm, int(inner.iterations)) == (0.25, None, 4)
    optimizer.apply_gradients([([1.0], x)])
    assert optimizer.weights is inner.weights
    assert optimizer.get_slot(x, "m") is inner.get_slot(x, "m")
    assert (optimizer.name, int(optimizer.iterations), optimizer.amsgrad) == ("Adam", 5, False)
    assert {"learning_rate", "lr", "loss_scale", "get_scaled_loss"} <= set(dir(optimizer))
    with pytest.raises(AttributeError, match="not_there"):
        _ = optimizer.not_there


@pytest.mark.parametrize(
    ("error", "make"),
    [
        (TypeError, lambda: legacy.LossScaleOptimizer(distopt.optimizers.SGD())),
        (TypeError, lambda: legacy.LossScaleOptimizer(legacy.LossScaleOptimizer(legacy.SGD()))),
        (TypeError, lambda: legacy.LossScaleOptimizer(legacy.SGD(), "dynamic")),
        (ValueError, lambda: [legacy.LossScaleOptimizer(sgd) for sgd in [legacy.SGD()] * 2]),
        (ValueError, lambda: legacy.LossScaleOptimizer(legacy.SGD(), dynamic=False)),
        (ValueError, lambda: legacy.LossScaleOptimizer(legacy.SGD(), False, 2.0, 10)),
        (ValueError, lambda: legacy.LossScaleOptimizer(legacy.SGD(), initial_scale=0.0)),
        (ValueError, lambda: legacy.LossScaleOptimizer(legacy.SGD(), dynamic_growth_steps=0)),
    ],
)
def test_what_cannot_be_right(error, make):
    with pytest.raises(error, match="LossScaleOptimizer"):
        make()


def test_config_round_trip():
    optimizer = legacy.LossScaleOptimizer(legacy.Nadam(0.5, schedule_decay=0.25), initial_scale=4.0)
    config = json.loads(json.dumps(legacy.serialize(optimizer)))
    twin = legacy.deserialize(config)
    assert isinstance(twin, legacy.LossScaleOptimizer)
    assert (twin.get_config(), twin.schedule_decay) == (optimizer.get_config(), 0.25)


@unscaled
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copy_has_a_scale_of_its_own(duplicate):
    x = Variable([1.0])
    optimizer = legacy.LossScaleOptimizer(legacy.SGD(0.5, momentum=0.5), initial_scale=8.0)
    optimizer.apply_gradients([([1.0], x)])
    y, twin = duplicate((x, optimizer))
    twin.apply_gradients([([INF], y)])
    assert (twin.loss_scale, int(twin.iterations), int(twin.dynamic_counter)) == (4.0, 2, 0)
    assert (optimizer.loss_scale, int(optimizer.iterations), int(optimizer.dynamic_counter)) == (8.0, 1, 1)
    twin.apply_gradients([([1.0], y)])
    optimizer.apply_gradients([([1.0], x)])
    assert float(x[0]) == float(y[0])


@unscaled
def test_a_checkpoint_has_the_scale(tmp_path):
    def run(first):
        x = Variable([1.0], name="x")
        optimizer = legacy.LossScaleOptimizer(legacy.SGD(0.5), initial_scale=8.0)
        with Checkpointer(tmp_path, optimizer=optimizer, variables=[x]) as checkpointer:
            if first:
                optimizer.apply_gradients([([INF], x)])
                checkpointer.save()
            else:
                checkpointer.restore()
        return optimizer.loss_scale, int(optimizer.iterations)

    assert run(first=True) == run(first=False) == (4.0, 1)


@unscaled
@pytest.mark.parametrize("update", ["replicated", "shared"])
def test_all_replicas_leave_a_step_out_together(update):
    """Upstream's testNanOnOneReplicaOnly; and the sum is looked at, not its parts."""

    def train():
        with distopt.Strategy(distopt.get_strategy().communicator, update=update).scope():
            x = Variable([1.0, 1.0], name="x")
            optimizer = legacy.LossScaleOptimizer(legacy.SGD(0.5), initial_scale=8.0)
            for each in ((0.0, np.nan), (1.0, 1.0), (3e38, 3e38)):
                gradient = np.array([each[distopt.replica_index()], 1.0], np.float32)
                optimizer.apply_gradients([(gradient, x)])
            return x.numpy().tolist(), optimizer.loss_scale, int(optimizer.iterations)

    first, second = simulate(2, train)
    assert first == second
    assert first == ([0.0, 0.0], 2.0, 3)


FIXED = ("loss_scale", "dynamic", "dynamic_growth_steps", "dynamic_counter", "initial_scale", "inner_optimizer")


@pytest.mark.parametrize("name", FIXED)
def test_what_upstream_refuses_to_set_is_refused(name):
    optimizer = legacy.LossScaleOptimizer(legacy.SGD(1.0), initial_scale=4.0)
    before = getattr(optimizer, name)
    with pytest.raises(AttributeError, match=f"{name} of a LossScaleOptimizer can't be set"):
        setattr(optimizer, name, 2.0)
    assert getattr(optimizer, name) is before or getattr(optimizer, name) == before


def test_attributes_of_a_subclass_are_its_own():
    class Counting(legacy.LossScaleOptimizer):
        def __init__(self, inner):
            super().__init__(inner)
            self.steps = 0

        def get_scaled_loss(self, loss):
            self.steps += 1
            return super().get_scaled_loss(loss)

    inner, x = legacy.SGD(0.5), Variable([1.0])
    optimizer = Counting(inner)
    optimizer.minimize(lambda: 1.0 * x, [x])
    optimizer.nesterov = True
    assert (optimizer.steps, hasattr(inner, "steps"), inner.nesterov, float(x[0])) == (1, False, True, 0.5)


@unscaled
@pytest.mark.parametrize("flag", [True, False])
def test_an_inner_optimizer_with_upstreams_arguments(flag):
    class Tenfold(legacy.SGD):
        def apply_gradients(self, grads_and_vars, name=None, experimental_aggregate_gradients=True):
            tenfold = [(10 * gradient, variable) for gradient, variable in grads_and_vars]
            return super().apply_gradients(tenfold, name, experimental_aggregate_gradients)

    class Older(legacy.SGD):
        def apply_gradients(self, grads_and_vars, name=None):
            return super().apply_gradients(grads_and_vars, name)

    x, y = Variable([1.0]), Variable([1.0])
    optimizer = legacy.LossScaleOptimizer(Tenfold(0.1))
    optimizer.apply_gradients([(np.float32([1.0]), x)], experimental_aggregate_gradients=flag)
    optimizer.apply_gradients([(np.float32([INF]), x)], experimental_aggregate_gradients=flag)
    legacy.LossScaleOptimizer(Older(1.0)).apply_gradients([([1.0], y)])
    assert (float(x[0]), int(optimizer.iterations), float(y[0])) == (0.0, 2, 0.0)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ({"class_name": "FixedLossScale", "config": {"loss_scale_value": 8.0}}, (8.0, False, None)),
        (
            {
                "class_name": "DynamicLossScale",
                "config": {"initial_loss_scale": 4, "increment_period": 7, "multiplier": 2.0},
            },
            (4.0, True, 7),
        ),
        ("dynamic", (2.0**15, True, 2000)),
        (16, (16.0, False, None)),
    ],
)
def test_configs_of_tensorflow_2_3(scale, expected):
    config = {"optimizer": legacy.serialize(legacy.SGD(0.25)), "loss_scale": scale}
    optimizer = legacy.LossScaleOptimizer.from_config(config)
    assert (optimizer.loss_scale, optimizer.dynamic, optimizer.dynamic_growth_steps) == expected
    assert float(optimizer.learning_rate) == 0.25
    assert set(config) == {"optimizer", "loss_scale"}


def test_loss_scales_of_other_kinds_are_refused():
    other = {"class_name": "DynamicLossScale", "config": {"multiplier": 3.0}}
    for scale in (other, {"class_name": "Mine", "config": {}}):
        with pytest.raises(ValueError, match="whose multiplier is 2"):
            legacy.LossScaleOptimizer.from_config({"optimizer": legacy.serialize(legacy.SGD()), "loss_scale": scale})


def test_an_optimizer_that_overrides_what_is_not_called_is_refused():
    class Mine(legacy.LossScaleOptimizer):
        def _apply_gradients(self, grads, wrapped_vars, name):
            raise AssertionError

    with pytest.raises(ValueError, match="Mine overrides _apply_gradients"):
        Mine(legacy.SGD())


def test_get_gradients_are_unscaled():
    x = Variable([3.0])
    optimizer = legacy.LossScaleOptimizer(legacy.SGD(0.5), initial_scale=8.0)
    assert [float(g[0]) for g in optimizer.get_gradients(lambda: x * x, [x])] == [6.0]
    assert [int(n) for n in optimizer.get_updates(lambda: x * x, [x])] == [1]
    assert float(x[0]) == 0.0
