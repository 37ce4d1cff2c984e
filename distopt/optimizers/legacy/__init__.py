"""The legacy family: slots, hyperparameters, ``_resource_apply_dense``."""

from distopt.optimizers.by_name.serialization import serialize
from distopt.optimizers.legacy.adadelta import Adadelta
from distopt.optimizers.legacy.adagrad import Adagrad
from distopt.optimizers.legacy.adam import Adam, NonFusedAdam
from distopt.optimizers.legacy.adamax import Adamax
from distopt.optimizers.legacy.base.optimizer import Optimizer
from distopt.optimizers.legacy.ftrl import Ftrl
from distopt.optimizers.legacy.loss_scale import LossScaleOptimizer
from distopt.optimizers.legacy.nadam import Nadam
from distopt.optimizers.legacy.rmsprop import RMSprop
from distopt.optimizers.legacy.serialization import deserialize, get
from distopt.optimizers.legacy.sgd import SGD

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "Adamax",
    "Ftrl",
    "LossScaleOptimizer",
    "Nadam",
    "NonFusedAdam",
    "Optimizer",
    "RMSprop",
    "deserialize",
    "get",
    "serialize",
]


def __dir__() -> list[str]:
    return __all__
