"""Names of the user are the user's: what distopt keeps on an optimizer begins with ``_distopt_``."""

import numpy as np
import pytest

from distopt import Variable, optimizers
from distopt.optimizers import legacy

NAMES = [
    *(
        "_accumulation",
        "_accumulators",
        "_apply_state",
        "_call",
        "_clipping",
        "_count",
        "_counter",
        "_damage",
        "_decay",
    ),
    *(
        "_engine",
        "_family",
        "_identity",
        "_indices",
        "_inner",
        "_loss_scale",
        "_masters",
        "_options",
        "_parts",
        "_plans",
    ),
    *(
        "_read",
        "_rule",
        "_scalars",
        "_scale",
        "_slabs",
        "_state",
        "_step",
        "_steps",
        "_streamed",
        "_trained",
        "_update",
    ),
    *("_variables_of_step", "lr", "decay_rate", "step", "state", "rule", "engine", "damage", "plans", "options"),
]
"""Names of former engines, and names that users take."""

UPSTREAM = {
    "_trainable_variables",
    "_learning_rate",
    "_name",
    "_hyper",
    "_weights",
    "_slots",
    "_slot_names",
    "_variables",
}
"""Attributes that upstream's classes have too, with the same meaning."""


class Mine(optimizers.Optimizer):
    def update_step(self, gradient, variable, learning_rate):
        variable.assign_sub(gradient * learning_rate)


class MineOfLegacy(legacy.Optimizer):
    def __init__(self):
        super().__init__("mine")
        self._set_hyper("learning_rate", 0.001)

    def _resource_apply_dense(self, grad, var, apply_state=None):
        var.assign_sub(grad * self._get_hyper("learning_rate", var.dtype))

    def get_config(self):
        return super().get_config()


BUILT_IN = [lambda: optimizers.Adam(0.001), lambda: legacy.Adam(0.001)]


def stepped(optimizer):
    w = Variable([1.0, 2.0], name="w")
    for _ in range(2):
        optimizer.apply_gradients([([1.0, -1.0], w)])
    return w.numpy()


@pytest.mark.parametrize("make", [Mine, MineOfLegacy, *BUILT_IN])
def test_attributes_of_any_name_change_nothing(make):
    plain, named = make(), make()
    is_legacy = isinstance(named, legacy.Optimizer)
    for name in NAMES:
        if not (is_legacy and name == "lr"):  # upstream's other name of the learning rate
            setattr(named, name, f"the user's {name}")
    np.testing.assert_array_equal(stepped(named), stepped(plain))
    assert all(getattr(named, name) == f"the user's {name}" for name in NAMES if not (is_legacy and name == "lr"))


@pytest.mark.parametrize("base", [optimizers.Adam, legacy.Adam])
def test_methods_of_any_name_are_never_called(base):
    def refuse(self, *arguments, **keywords):
        raise AssertionError("a method of the user's was called")

    body = {name: refuse for name in NAMES if name != "lr"}
    np.testing.assert_array_equal(stepped(type("Named", (base,), body)(0.001)), stepped(base(0.001)))


@pytest.mark.parametrize("make", [lambda: optimizers.Adam(0.001, use_ema=True), lambda: legacy.Adam(0.001)])
def test_private_attributes_are_upstreams_or_have_the_prefix(make):
    optimizer = make()
    stepped(optimizer)
    private = {name for name in vars(optimizer) if name.startswith("_") and not name.startswith("_distopt_")}
    upstream = UPSTREAM | {"_iterations", "_use_locking", "_initial_decay", "_momentum", "_velocities", "_momentums"}
    assert private <= upstream | {"_velocity_hats"}
