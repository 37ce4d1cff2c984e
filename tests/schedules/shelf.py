"""The optimizers of random programs, by what they can do."""

from __future__ import annotations

from typing import Any

import numpy as np

import distopt
from distopt import IndexedSlices
from distopt.aggregators import BFloat16, Float16, Stacked
from distopt.optimizers import SGD, Adam, Lamb, LossScaleOptimizer, MultiOptimizer, OptimizerMap, legacy

OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda **k: SGD(0.5, **k),
    "momentum": lambda **k: SGD(0.25, momentum=0.5, nesterov=True, **k),
    "Adam": lambda **k: Adam(0.125, **k),
    "AMSGrad with decay": lambda **k: _spared(Adam(0.125, amsgrad=True, weight_decay=0.25, **k)),
    "average": lambda **k: SGD(0.25, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2, **k),
    "Adam with average": lambda **k: Adam(0.125, use_ema=True, ema_momentum=0.5, **k),
    "masters": lambda **k: SGD(0.01, momentum=0.5, master_weights=True, **k),
    "Adam with masters": lambda **k: Adam(0.01, master_weights=True, **k),
    "accumulation": lambda **k: SGD(0.25, momentum=0.5, gradient_accumulation_steps=2, **k),
    "composite loss scale": lambda **k: LossScaleOptimizer(Adam(0.125), initial_scale=4.0, dynamic_growth_steps=2, **k),
    "composite routes": lambda **k: MultiOptimizer(
        OptimizerMap(Adam(0.125), {"v1": SGD(0.25, global_clipnorm=9.0)}), **k
    ),
    "Lamb": lambda **k: Lamb(0.125, **k),
    "legacy SGD": lambda **k: legacy.SGD(0.5, decay=0.125, **k),
    "legacy momentum": lambda **k: legacy.SGD(0.25, momentum=0.5, **k),
    "legacy Adam": lambda **k: legacy.Adam(0.125, amsgrad=True, **k),
    "legacy loss scale": lambda **k: legacy.LossScaleOptimizer(
        legacy.SGD(0.25, momentum=0.5, **k), initial_scale=4.0, dynamic_growth_steps=2
    ),
}

LEGACY = frozenset(name for name in OPTIMIZERS if name.startswith("legacy"))
SHAREABLE = frozenset(OPTIMIZERS) - {"composite loss scale", "composite routes", "Lamb"}
WITH_ACCUMULATION = frozenset({"accumulation"})
WITH_AVERAGES = frozenset({"average", "Adam with average"})
OVERWRITING = frozenset({"average"})
WITH_MASTERS = frozenset({"masters", "Adam with masters"})
WITH_SCALE = frozenset({"composite loss scale", "legacy loss scale"})


def make_optimizer(name: str, options: dict[str, Any], hook: str | None, transformer: str | None) -> Any:
    """Make an optimizer with its limits and hooks."""
    hooks = {} if hook is None else {"gradient_aggregator": _hook(hook)}
    if transformer is not None:
        hooks["gradient_transformers"] = [{"halve": _halve, "clip": _clip}[transformer]]
    return OPTIMIZERS[name](**options, **hooks)


def _spared(optimizer: Any) -> Any:
    """Let one variable keep its weights, so that two variants of the rule update one buffer."""
    optimizer.exclude_from_weight_decay(var_names=["v0"])
    return optimizer


def _hook(name: str) -> Any:
    makers = {"Float16": Float16, "BFloat16": BFloat16, "Stacked": lambda: Stacked(lambda g: g.sum(axis=0))}
    return makers[name]() if name in makers else _by_all_reduce


def _by_all_reduce(pairs: Any) -> Any:
    return [(distopt.all_reduce(_dense(gradient)), variable) for gradient, variable in pairs]


def _halve(pairs: Any) -> Any:
    return [(_dense(gradient) / np.asarray(2, variable.dtype), variable) for gradient, variable in pairs]


def _clip(pairs: Any) -> Any:
    return [(np.clip(_dense(gradient), -3, 3).astype(variable.dtype), variable) for gradient, variable in pairs]


def _dense(gradient: Any) -> Any:
    return gradient.to_dense() if isinstance(gradient, IndexedSlices) else gradient
