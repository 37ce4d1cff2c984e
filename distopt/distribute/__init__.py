"""The replicas, and how they talk to each other."""

from distopt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__, {"Place": "Location"})
