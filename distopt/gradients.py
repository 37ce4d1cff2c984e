"""Gradients of NumPy code: the public names of ``variables.tape`` and ``variables.minimizing``."""

from distopt.variables.minimizing import compute_gradients
from distopt.variables.tape import GradientTape, UnconnectedGradients, stop_gradient

__all__ = ["GradientTape", "UnconnectedGradients", "compute_gradients", "stop_gradient"]


def __dir__() -> list[str]:
    return __all__
