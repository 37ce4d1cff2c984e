"""Optimizers: the Keras 3 family here, the legacy family in ``legacy``, schedules in ``schedules``."""

from distopt.optimizers import legacy, schedules
from distopt.optimizers.adadelta import Adadelta
from distopt.optimizers.adafactor import Adafactor
from distopt.optimizers.adagrad import Adagrad
from distopt.optimizers.adam import Adam
from distopt.optimizers.adamax import Adamax
from distopt.optimizers.adamw import AdamW
from distopt.optimizers.by_name.serialization import deserialize, get, serialize
from distopt.optimizers.ftrl import Ftrl
from distopt.optimizers.keras3.optimizer import Optimizer
from distopt.optimizers.lamb import Lamb
from distopt.optimizers.legacy.conversion import convert_weights
from distopt.optimizers.lion import Lion
from distopt.optimizers.loss_scale_optimizer import LossScaleOptimizer
from distopt.optimizers.multi_optimizer import MultiOptimizer, OptimizerMap
from distopt.optimizers.muon import Muon
from distopt.optimizers.nadam import Nadam
from distopt.optimizers.rmsprop import RMSprop
from distopt.optimizers.schedule_free_adamw import ScheduleFreeAdamW
from distopt.optimizers.sgd import SGD
from distopt.registry import register

__all__ = [
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Ftrl",
    "Lamb",
    "Lion",
    "LossScaleOptimizer",
    "MultiOptimizer",
    "Muon",
    "Nadam",
    "Optimizer",
    "OptimizerMap",
    "RMSprop",
    "ScheduleFreeAdamW",
    "convert_weights",
    "deserialize",
    "get",
    "legacy",
    "register",
    "schedules",
    "serialize",
]


def __dir__() -> list[str]:
    return __all__
