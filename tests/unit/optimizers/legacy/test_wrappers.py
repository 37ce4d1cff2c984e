"""Optimizers around others: numbers of TensorFlow Addons' own on TensorFlow 2.21, weights, checkpoints, configs."""

import copy
import json

import numpy as np
import pytest
from unit.optimizers.legacy_wrappers import SWA, Lookahead, MovingAverage, call

from distopt import IndexedSlices, Variable, replica_index, simulate
from distopt.checkpoint import Checkpointer
from distopt.optimizers import legacy

INNER = {
    "SGD": lambda: legacy.SGD(0.5, momentum=0.5),
    "Adam": lambda: legacy.Adam(0.1),
    "Nadam": lambda: legacy.Nadam(0.1),
    "RMSprop": lambda: legacy.RMSprop(0.1),
}
OUTER = {
    "Lookahead": lambda inner: Lookahead(inner, sync_period=2, slow_step_size=0.5),
    "MovingAverage": lambda inner: MovingAverage(inner, average_decay=0.5),
    "SWA": lambda inner: SWA(inner, start_averaging=1, average_period=2),
}
UPSTREAM = [
    ("Lookahead", "SGD", [-2.75, 4.5], [-0.25, 2.0, -0.75], [-0.734375, 3.53125]),
    ("MovingAverage", "SGD", [-4.484375, 6.03125], [-0.734375, 2.0, -3.046875], [-2.9140625, 5.140625]),
    ("SWA", "SGD", [-4.484375, 6.03125], [-0.734375, 2.0, -3.046875], [-1.171875, 4.15625]),
    ("Lookahead", "Adam", [0.70909762, 2.299999], [0.78764015, 2.0, 2.7000008], [0.80582106, 2.1999993]),
    ("MovingAverage", "Adam", [0.51491863, 2.4999986], [0.66543102, 2.0, 2.5000012], [0.60842288, 2.4031239]),
    ("SWA", "Adam", [0.51491863, 2.4999986], [0.66543102, 2.0, 2.5000012], [0.70756257, 2.299999]),
    ("Lookahead", "Nadam", [0.69914854, 2.2397702], [0.73466998, 2.0, 2.7602298], [0.8015157, 2.1651702]),
    ("Lookahead", "RMSprop", [0.22709842, 2.6103978], [0.33074576, 2.0, 2.3896022], [0.4501214, 2.4541306]),
    ("MovingAverage", "RMSprop", [-0.32278019, 3.0645285], [-0.09975685, 2.0, 1.9354715], [-0.09145857, 2.8955317]),
    ("SWA", "RMSprop", [-0.32278019, 3.0645285], [-0.09975685, 2.0, 1.9354715], [0.14915052, 2.7269523]),
]
"""Wrapper, inner optimizer; a dense variable, a table and the first slot of the wrapper after five steps."""


def gradients(k, share=1.0):
    rows = IndexedSlices(np.float32([[1.0], [0.25 * k], [0.5]]) * np.float32(share), [2, 0, 2], (3, 1))
    return np.float32([0.5 * (k + 1), -1.0]) * np.float32(share), rows


def variables():
    return Variable([1.0, 2.0], name="x"), Variable([[1.0], [2.0], [3.0]], name="table")


def train(optimizer, listed, steps, share=1.0):
    for k in steps:
        optimizer.apply_gradients(zip(gradients(k, share), listed, strict=True))


@pytest.mark.parametrize(("outer", "inner", "dense", "table", "slot"), UPSTREAM)
@pytest.mark.parametrize("count", [1, 2])
def test_upstreams_numbers(outer, inner, dense, table, slot, count):
    def run():
        listed, optimizer = variables(), OUTER[outer](INNER[inner]())
        train(optimizer, listed, range(5), (0.25, 0.75)[replica_index()] if count == 2 else 1.0)
        return [v.numpy().ravel() for v in listed] + [optimizer.get_weights()[1]]

    for result in simulate(count, run):
        for mine, expected in zip(result, (dense, table, slot), strict=True):
            np.testing.assert_allclose(mine, expected, rtol=2e-6)


def test_a_nadam_inside_advances_its_momentum():
    x = Variable([1.0])
    optimizer = Lookahead(legacy.Nadam(0.1), sync_period=100)
    for gradient in (1.0, 2.0, 3.0):
        optimizer.apply_gradients([([gradient], x)])
    assert float(x[0]) == pytest.approx(0.7019, abs=5e-5)


def resumed_by_weights(optimizer, listed, _):
    again, other = OUTER["Lookahead"](INNER["SGD"]()), variables()
    train(again, other, [0], 0.0)
    again.set_weights(optimizer.get_weights())
    for mine, theirs in zip(other, listed, strict=True):
        mine.assign(theirs)
    return again, other


def resumed_by_checkpoint(optimizer, listed, tmp_path):
    with Checkpointer(tmp_path, optimizer=optimizer, variables=list(listed)) as checkpointer:
        checkpointer.save()
    again, other = OUTER["Lookahead"](INNER["SGD"]()), variables()
    with Checkpointer(tmp_path, optimizer=again, variables=list(other)) as checkpointer:
        checkpointer.restore()
    return again, other


def resumed_by_copy(optimizer, listed, _):
    other, again = copy.deepcopy((listed, optimizer))
    return again, other


@pytest.mark.parametrize("resume", [resumed_by_weights, resumed_by_checkpoint, resumed_by_copy])
def test_the_state_of_the_inner_optimizer_goes_along(resume, tmp_path):
    """Upstream's get_weights reads the property weights, which a wrapper extends by those of the one inside."""
    straight, listed = OUTER["Lookahead"](INNER["SGD"]()), variables()
    train(straight, listed, range(5))
    cut, others = OUTER["Lookahead"](INNER["SGD"]()), variables()
    train(cut, others, range(3))
    assert [w.name for w in cut.weights] == [
        "Lookahead/iter", "x/slow", "table/slow", "x/momentum", "table/momentum"
    ]  # fmt: skip
    again, later = resume(cut, others, tmp_path)
    train(again, later, range(3, 5))
    for mine, theirs in zip(later, listed, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


def test_momentum_of_a_wrapped_optimizer_is_resumed():
    def step(optimizer, x, steps):
        for _ in range(steps):
            optimizer.apply_gradients([([1.0], x)])

    x, optimizer = Variable([0.0]), MovingAverage(legacy.SGD(0.5, momentum=0.5))
    step(optimizer, x, 2)
    y, again = Variable(x), MovingAverage(legacy.SGD(0.5, momentum=0.5))
    again.apply_gradients([([0.0], y)])
    again.set_weights(optimizer.get_weights())
    step(again, y, 2)
    assert float(y[0]) == -3.0625


def test_a_config_has_the_inner_optimizer():
    optimizer = Lookahead(legacy.Adam(0.25, beta_1=0.5), sync_period=3)
    config = json.loads(json.dumps(optimizer.get_config()))
    again = Lookahead.from_config(copy.deepcopy(config))
    assert again.get_config() == config
    again.learning_rate = 0.5
    assert float(again.learning_rate) == 0.5


def test_a_tracked_object_is_in_checkpoints_and_not_in_weights(tmp_path):
    class Counting(legacy.SGD):
        def __init__(self):
            super().__init__(1.0)
            self.seen = self.add_weight("seen", shape=[], dtype="int64", trainable=False)
            self.scale = self._track_trackable(Variable(1.0, name="scale"), "scale")

        def _resource_apply_dense(self, grad, var, apply_state=None):
            self.seen.assign_add(1)
            self.scale.assign(self.scale / 2)
            var.assign_sub(self.scale * grad)

    first, x = Counting(), Variable([0.0], name="x")
    first.apply_gradients([([1.0], x)])
    assert [weight.name for weight in first.weights] == ["SGD/iter"]
    with Checkpointer(tmp_path, optimizer=first, variables=[x]) as checkpointer:
        checkpointer.save()
    second, y = Counting(), Variable([0.0], name="x")
    with Checkpointer(tmp_path, optimizer=second, variables=[y]) as checkpointer:
        checkpointer.restore()
    assert (int(second.seen), float(second.scale), float(y[0])) == (1, 0.5, -0.5)
    with pytest.raises(ValueError, match="overwrite=True"):
        call(second, "_track_trackable", Variable(1.0), "scale")
