"""Where a fault can happen: a table of places, each with the functions of the library that stand for it."""

from __future__ import annotations

import functools
import importlib
from typing import Any

STEP_BEGINS = (
    "distopt.optimizers.common.base:BaseOptimizer._do_step",
    "distopt.optimizers.common.base:BaseOptimizer.begin_step",
)
"""The first argument of both is the optimizer."""

PLACES: dict[str, tuple[str, ...]] = {
    "before the first step": STEP_BEGINS,
    "before the header": STEP_BEGINS,
    "in a gradient": ("distopt.slabs.intake:read_gradient", "distopt.engine.streamed_step:read_gradient"),
    "in the header": ("distopt.engine.agreement:agree",),
    "after the header": ("distopt.engine.step:choose_reducer",),
    "in the payload": (
        "distopt.engine.sweep.blocks:add_tree",
        "distopt.distribute.node.node_sum:add_tree",
        "distopt.distribute.agreement.summation:add_tree",
    ),
    "in the update": (
        "distopt.engine.sweep.blocks:update",
        "distopt.optimizers.common.rule_updates:update",
        "distopt.optimizers.keras3.optimizer:Optimizer._update",
        "distopt.optimizers.legacy.base.updates:Updates._update",
    ),
    "in a checkpoint": ("distopt.checkpoint.checkpointer:Checkpointer._save",),
    "at exit": (),
}
"""Place -> the functions whose next call, on that replica in that step, is the moment of the fault."""

WITHOUT_STEP = ("before the first step", "at exit")


def find(target: str) -> tuple[Any, str]:
    """Return the module or class, and the name in it, of ``module:name`` or ``module:Class.name``.

    Example:
        >>> owner, name = find("distopt.engine.agreement:agree")
        >>> owner.__name__, name
        ('distopt.engine.agreement', 'agree')
    """
    module, _, path = target.partition(":")
    *classes, name = path.split(".")
    return functools.reduce(getattr, classes, importlib.import_module(module)), name
