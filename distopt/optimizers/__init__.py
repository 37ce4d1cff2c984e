"""Optimizers: the Keras 3 family here, the legacy family in ``legacy``, schedules in ``schedules``."""

from distopt.optimizers import legacy, schedules
from distopt.optimizers.adam import Adam
from distopt.optimizers.optimizer import Optimizer
from distopt.optimizers.sgd import SGD

__all__ = ["SGD", "Adam", "Optimizer", "legacy", "schedules"]
