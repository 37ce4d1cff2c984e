"""Adapters to other frameworks. Each is loaded at its first use, as in ``distopt.adapters.jax``: not before."""

from distopt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
