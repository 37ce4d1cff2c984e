"""Learning rates that are functions of the step."""

from distopt.optimizers.schedules.cosine_decay import CosineDecay
from distopt.optimizers.schedules.exponential_decay import ExponentialDecay
from distopt.optimizers.schedules.polynomial_decay import PolynomialDecay
from distopt.optimizers.schedules.schedule import LearningRateSchedule
from distopt.optimizers.schedules.serialization import deserialize, serialize

__all__ = [
    "CosineDecay",
    "ExponentialDecay",
    "LearningRateSchedule",
    "PolynomialDecay",
    "deserialize",
    "serialize",
]
