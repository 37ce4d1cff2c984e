"""Gives checkpoints, conversions, adapters and composites access to the internal parts of an optimizer."""

from __future__ import annotations

from collections.abc import Sequence

from distopt.distribute.belonging import Belonging
from distopt.engine.engine import Engine
from distopt.engine.state.family import Family
from distopt.optimizers.common.base import BaseOptimizer
from distopt.variables.variable import Variable


def engine_of(optimizer: BaseOptimizer) -> Engine:
    """Return the engine of an optimizer."""
    return optimizer._distopt_engine


def parts_of(optimizer: BaseOptimizer) -> Sequence[BaseOptimizer]:
    """Return the optimizers that update and keep state: this one, or those inside it."""
    return optimizer._distopt_parts()


def counter_of(optimizer: BaseOptimizer) -> Variable:
    """Return the counter of an optimizer's calls; the legacy family makes it at its first use."""
    return optimizer._iterations


def family_of(optimizer: BaseOptimizer) -> Family:
    """Return the interface through which the engine uses an optimizer."""
    return optimizer._distopt_family()


def belonging_of(optimizer: object) -> Belonging:
    """Return where an optimizer belongs; of anything else, where this is asked."""
    belonging = optimizer._distopt_belonging if isinstance(optimizer, BaseOptimizer) else None
    return belonging or Belonging()
