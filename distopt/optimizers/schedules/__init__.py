"""Learning rates that are functions of the step."""

from distopt.optimizers.schedules.cosine_decay import CosineDecay
from distopt.optimizers.schedules.cosine_decay_restarts import CosineDecayRestarts
from distopt.optimizers.schedules.exponential_decay import ExponentialDecay
from distopt.optimizers.schedules.inverse_time_decay import InverseTimeDecay
from distopt.optimizers.schedules.piecewise_constant_decay import PiecewiseConstantDecay
from distopt.optimizers.schedules.polynomial_decay import PolynomialDecay
from distopt.optimizers.schedules.schedule import LearningRateSchedule
from distopt.optimizers.schedules.serialization import deserialize, serialize
from distopt.optimizers.schedules.warmup import Warmup
from distopt.registry import register

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
    "Warmup",
    "deserialize",
    "register",
    "serialize",
]


def __dir__() -> list[str]:
    return __all__
