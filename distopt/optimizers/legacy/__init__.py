"""The legacy family: slots, hyperparameters, ``_resource_apply_dense``."""

from distopt.optimizers.legacy.adam import Adam, NonFusedAdam
from distopt.optimizers.legacy.optimizer import Optimizer
from distopt.optimizers.legacy.sgd import SGD

__all__ = ["SGD", "Adam", "NonFusedAdam", "Optimizer"]
