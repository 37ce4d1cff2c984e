"""TensorFlow's and Keras' names over distopt, for files that define optimizers, schedules, constraints and losses."""

from distopt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
