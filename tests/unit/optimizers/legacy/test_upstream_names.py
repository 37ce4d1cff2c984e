"""Each name of upstream's classes, overridden: called as upstream calls it, refused by name, or nobody's to call.

The names are those of ``OptimizerV2`` and of the legacy ``LossScaleOptimizer`` in tf_keras 2.21, without Python's own;
``_clip_gradients`` is of TensorFlow 2.0 to 2.3, ``_track_trackable`` of their common base.
"""

import numpy as np
import pytest

from distopt import GradientTape, IndexedSlices, Variable
from distopt.optimizers import legacy

CALLED, REFUSED, USERS, NEVER = "called", "refused", "called by the user, or by his other methods", "calls no user code"

BASE = {
    "_HAS_AGGREGATE_GRAD": NEVER,  # Model.fit of Keras reads it
    "_aggregate_gradients": CALLED,
    "_assert_valid_dtypes": CALLED,
    "_call_if_callable": USERS,
    "_clip_gradients": CALLED,
    "_compute_gradients": CALLED,
    "_create_all_weights": CALLED,
    "_create_hypers": CALLED,
    "_create_or_restore_slot_variable": NEVER,  # only a reader of TensorFlow's checkpoints calls it
    "_create_slots": CALLED,
    "_create_slots_for_sharded_variables": CALLED,
    "_decayed_lr": CALLED,
    "_dense_apply_args": USERS,  # asked where _resource_apply_dense is overridden
    "_distributed_apply": CALLED,
    "_distribution_strategy_scope": CALLED,
    "_fallback_apply_state": USERS,
    "_get_gradients": CALLED,
    "_get_hyper": CALLED,
    "_init_set_name": CALLED,
    "_prepare": CALLED,
    "_prepare_local": CALLED,
    "_resource_apply_dense": CALLED,
    "_resource_apply_sparse": CALLED,
    "_resource_apply_sparse_duplicate_indices": CALLED,
    "_resource_scatter_add": REFUSED,
    "_resource_scatter_update": REFUSED,
    "_restore_slot_variable": CALLED,
    "_serialize_hyperparameter": CALLED,
    "_set_hyper": CALLED,
    "_sparse_apply_args": USERS,  # asked where a method for rows is overridden
    "_track_trackable": USERS,
    "_transform_gradients": CALLED,
    "_transform_loss": CALLED,
    "_transform_unaggregated_gradients": CALLED,
    "_valid_dtypes": CALLED,
    "add_slot": CALLED,
    "add_weight": CALLED,
    "apply_gradients": CALLED,
    "clipnorm": CALLED,
    "clipvalue": CALLED,
    "from_config": CALLED,
    "get_config": CALLED,
    "get_gradients": CALLED,
    "get_slot": REFUSED,
    "get_slot_names": USERS,
    "get_updates": USERS,
    "get_weights": USERS,
    "global_clipnorm": CALLED,
    "iterations": CALLED,
    "minimize": USERS,
    "set_weights": USERS,
    "variables": USERS,
    "weights": CALLED,
}
LOSS_SCALE = {
    "_HAS_AGGREGATE_GRAD": NEVER,
    "_aggregate_gradients": NEVER,  # that of the inner optimizer is called; so are the others that it has
    "_apply_gradients": REFUSED,
    "_compute_gradients": CALLED,
    "_create_all_weights": NEVER,
    "_create_or_restore_slot_variable": NEVER,
    "_restore_slot_variable": NEVER,
    "add_slot": NEVER,
    "apply_gradients": CALLED,
    "clipnorm": NEVER,
    "clipvalue": NEVER,
    "dynamic": CALLED,
    "dynamic_counter": NEVER,
    "dynamic_growth_steps": CALLED,
    "from_config": CALLED,
    "get_config": CALLED,
    "get_gradients": CALLED,
    "get_scaled_loss": CALLED,
    "get_slot": NEVER,
    "get_slot_names": NEVER,
    "get_unscaled_gradients": CALLED,
    "get_weights": USERS,
    "global_clipnorm": NEVER,
    "initial_scale": CALLED,
    "inner_optimizer": NEVER,
    "iterations": NEVER,
    "learning_rate": NEVER,
    "loss_scale": CALLED,
    "lr": NEVER,
    "set_weights": USERS,
    "variables": NEVER,
    "weights": NEVER,
}


def overriding(base, name, calls):
    """A class that overrides a name, says so when it is called, and does what its base does."""
    theirs = getattr(base, name, None)

    def say(self, *args, **kwargs):
        calls.append(name)
        if isinstance(theirs, property):
            return theirs.__get__(self)
        return theirs(self, *args, **kwargs)

    def store(self, value):
        theirs.fset(self, value)

    member = say
    if isinstance(theirs, property):
        member = property(say, store) if theirs.fset else property(say)
    elif name == "from_config":
        member = classmethod(lambda own, config: calls.append(name) or super(cls, own).from_config(config))
    cls = type("Mine", (base,), {name: member})
    return cls


def exercise(make, cls):
    """Do what programs do: steps, dense and sparse, configs, weights."""
    optimizer = make(cls)
    x, table = Variable([1.0, 2.0]), Variable([[1.0], [2.0]])
    optimizer.minimize(lambda: np.sum(x * 2), [x])
    with GradientTape() as tape:
        loss = np.sum(x**2) + table[np.array([1, 1])].sum()
    optimizer.minimize(loss, [x, table], tape=tape)
    optimizer.get_updates(lambda: np.sum(x * 3), [x])
    optimizer.set_weights(optimizer.get_weights())
    cls.from_config(optimizer.get_config())
    return x.numpy(), table.numpy(), int(optimizer.iterations)


def make_adam(cls):
    return cls(0.125, clipnorm=1.0)


def make_scaled(cls):
    return cls(legacy.Adam(0.125), initial_scale=4.0)


def cases():
    for name, what in BASE.items():
        if what in (CALLED, REFUSED):
            yield pytest.param(legacy.Adam, make_adam, name, what, id=name)
    for name, what in LOSS_SCALE.items():
        if what in (CALLED, REFUSED):
            yield pytest.param(legacy.LossScaleOptimizer, make_scaled, name, what, id=f"LossScaleOptimizer.{name}")


@pytest.mark.parametrize(("base", "make", "name", "what"), list(cases()))
def test_an_override_is_called_or_refused(base, make, name, what):
    calls = []
    cls = overriding(base, name, calls)
    if what == REFUSED:
        with pytest.raises((NotImplementedError, ValueError), match=f"Mine overrides {name}"):
            exercise(make, cls)
        return
    found = exercise(make, cls)
    assert name in calls
    for mine, expected in zip(found, exercise(make, base), strict=True):
        np.testing.assert_array_equal(mine, expected)


class Plain(legacy.Optimizer):
    """Gradient descent by methods of its own, which look at everything that upstream's look at."""

    def __init__(self, learning_rate=0.5, name="Plain", **kwargs):
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", learning_rate)

    def _create_slots(self, var_list):
        for var in var_list:
            self.add_slot(var, "seen")

    def _resource_apply_dense(self, grad, var):
        rate = self._fallback_apply_state(var.device, var.dtype)["lr_t"]
        self.get_slot(var, "seen").assign_add(grad)
        var.assign_sub(self._call_if_callable(rate) * grad)

    def _resource_apply_sparse(self, grad, var, indices, apply_state):
        rate = apply_state[var.device, var.dtype]["lr_t"]
        self._resource_scatter_add(self.get_slot(var, "seen"), indices, grad)
        rows = var.numpy()[indices]
        self._resource_scatter_update(var, indices, rows - rate * grad)


USED = (
    "_call_if_callable",
    "_dense_apply_args",
    "_fallback_apply_state",
    "_resource_scatter_add",
    "_resource_scatter_update",
    "_sparse_apply_args",
    "get_slot",
)


@pytest.mark.parametrize("name", USED)
def test_what_update_methods_call_is_what_the_user_has_overridden(name):
    calls, results = [], []
    for cls in (Plain, overriding(Plain, name, calls)):
        x, table = Variable([1.0]), Variable([[1.0], [2.0], [3.0]])
        optimizer = cls(0.5)
        optimizer.apply_gradients([([1.0], x), (IndexedSlices([[1.0], [2.0], [4.0]], [2, 0, 2], (3, 1)), table)])
        results.append(
            [float(x[0]), *table.numpy().ravel().tolist(), *optimizer.get_slot(table, "seen").numpy().ravel()]
        )
    assert results[0] == results[1] == [0.5, 0.0, 2.0, 0.5, 2.0, 0.0, 5.0]
    assert name in calls


def test_the_table_is_whole():
    """What upstream has and distopt's classes do not is named here, and nothing else is."""
    assert [name for name in BASE if not hasattr(legacy.Optimizer, name)] == []
    missing = [name for name in LOSS_SCALE if not hasattr(legacy.LossScaleOptimizer, name)]
    assert missing == ["_apply_gradients", "inner_optimizer", "learning_rate", "lr"]
