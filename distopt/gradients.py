"""Gradients of NumPy code: the public name of ``distopt.variables.tape``."""

from distopt.variables.tape import GradientTape, UnconnectedGradients, compute_gradients, stop_gradient

__all__ = ["GradientTape", "UnconnectedGradients", "compute_gradients", "stop_gradient"]
